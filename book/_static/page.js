// What a page does under the reader's hand. Without scripts everything is there to be read.
(() => {
  "use strict";

  const all = (selector, root = document) => [...root.querySelectorAll(selector)];
  const page = document.documentElement;

  function make(name, attributes = {}, text = "") {
    const element = document.createElement(name);
    for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
    element.textContent = text;
    return element;
  }

  function remembered(key) {
    try {
      return localStorage.getItem(key);
    } catch {
      return null; // storage may be forbidden
    }
  }

  function remember(key, value) {
    try {
      localStorage.setItem(key, value);
    } catch {
      // then it lasts as long as the page
    }
  }

  /* A guess that can be clicked, is remembered, and is met again where the answer stands. */
  function guesses() {
    const box = document.querySelector(".vae-guess");
    const letters = [...new Set([...(box?.textContent ?? "").matchAll(/\(([a-e])\)/g)].map((m) => m[1]))];
    if (letters.length < 2) return;
    const key = `guess:${location.pathname.split("/").pop()}`;
    const answer = document.querySelector(".vae-answer[data-answer]");
    const row = make("div", { class: "vae-guess-row", role: "group", "aria-label": "Your guess" });
    row.append(make("span", {}, "Your guess:"));
    const note = make("p", { class: "vae-guess-note", hidden: "" });
    answer?.before(note);
    const choose = (letter) => {
      for (const button of all("button", row)) {
        button.setAttribute("aria-pressed", String(button.dataset.letter === letter));
      }
      if (!answer || !letter) return;
      note.hidden = false;
      note.textContent = letter === answer.dataset.answer
        ? `You guessed (${letter}): right.`
        : `You guessed (${letter}).`;
    };
    for (const letter of letters) {
      const button = make("button", { type: "button", "data-letter": letter }, `(${letter})`);
      button.addEventListener("click", () => {
        remember(key, letter);
        choose(letter);
      });
      row.append(button);
    }
    box.append(row);
    choose(remembered(key));
  }

  /* Code can be hidden, for those who came for the ideas; the choice is kept. */
  function codeSwitch() {
    const button = document.querySelector(".vae-code-switch");
    if (!button) return;
    const set = (hide) => {
      page.classList.toggle("vae-no-code", hide);
      button.textContent = hide ? "Show the code" : "Hide the code";
    };
    button.addEventListener("click", () => {
      const hide = !page.classList.contains("vae-no-code");
      remember("code", hide ? "hidden" : "shown");
      set(hide);
    });
    set(remembered("code") === "hidden");
  }

  /* What is too wide for its box scrolls, and can be reached by Tab; nothing else is a stop. */
  function scrollable() {
    const boxes = all("article div.math, article div.highlight > pre, article .output pre, article .vae-scroll");
    const stop = (box, wide, name) => {
      box.classList.toggle(name, wide);
      if (wide) box.tabIndex = 0;
      else box.removeAttribute("tabindex");
    };
    // A few at a time, while nothing else is to be done: all are measured, then marked.
    const rest = window.requestIdleCallback ?? ((act) => setTimeout(act, 1));
    const waiting = new Set();
    const look = () => {
      const some = [...waiting].slice(0, 6);
      for (const box of some) waiting.delete(box);
      const found = some.filter((box) => box.isConnected).map((box) => {
        if (box.localName !== "mjx-container") return [box, box.scrollWidth > box.clientWidth + 1, "vae-wide"];
        // A formula within a line scrolls by itself where it is wider than the whole line.
        const line = box.closest("p, li, td, th, dd, figcaption, h2, h3") ?? box.parentElement;
        return [box, box.scrollWidth > line.clientWidth + 1, "vae-wide-formula"];
      });
      for (const [box, wide, name] of found) stop(box, wide, name);
      if (waiting.size) rest(look, { timeout: 1000 });
    };
    const measure = (some) => {
      if (!waiting.size && some.length) rest(look, { timeout: 1000 });
      for (const box of some) waiting.add(box);
    };
    const watch = new ResizeObserver((entries) => measure(entries.map((entry) => entry.target)));
    for (const box of boxes) watch.observe(box);
    // Formulas come when they are nearly in view.
    const formulas = () => measure(all("article span.math mjx-container"));
    const article = document.querySelector("article");
    if (article) {
      new MutationObserver((changes) => {
        const nodes = changes.flatMap((change) => [...change.addedNodes]);
        if (nodes.some((node) => node.localName === "mjx-container")) {
          formulas();
          measure(boxes.filter((box) => box.matches("div.math")));
        }
      }).observe(article, { childList: true, subtree: true });
    }
    addEventListener("resize", formulas);
  }

  /* MathJax is loaded when a formula is nearly in view, or when the page has been there for a while. */
  function maths() {
    const asked = document.querySelector("script[data-maths]");
    if (!asked) return;
    const near = new IntersectionObserver(
      (entries) => entries.some((entry) => entry.isIntersecting) && load(),
      { rootMargin: "800px 0px" },
    );
    const load = () => {
      near.disconnect();
      if (!asked.dataset.maths) return;
      const script = make("script", { src: asked.dataset.maths });
      script.addEventListener("load", fontsForPaper);
      document.head.append(script);
      delete asked.dataset.maths;
    };
    // Whoever prints does not wait for fonts: where there is a mouse, they come before they are needed.
    const fontsForPaper = async () => {
      if (!matchMedia("(pointer: fine)").matches) return;
      await window.MathJax.startup.promise;
      setTimeout(() => {
        for (const face of document.fonts) {
          if (/MJXTEX(-(I|MI|B|BI|A|C|S[1-4]))?["']?$/.test(face.family)) face.load().catch(() => {});
        }
      }, 1500);
    };
    for (const formula of all("article .math")) near.observe(formula);
    addEventListener("load", () => setTimeout(load, 5000));
    for (const sign of ["beforeprint", "keydown", "pointerdown"]) addEventListener(sign, load, { once: true });
  }

  /* The phone's list of contents closes when an entry is chosen. */
  function panels() {
    for (const link of all(".bd-sidebar-secondary a[href^='#'], .bd-sidebar-primary a[href]")) {
      link.addEventListener("click", () => {
        for (const dialog of all("dialog[open]")) dialog.close();
        for (const toggle of all("input.sidebar-toggle:checked")) toggle.checked = false;
      });
    }
  }

  /* A tapped figure opens in the colours of the page. */
  function figures() {
    for (const link of all("a.vae-enlarge")) {
      link.addEventListener("click", () => {
        link.href = all("img", link).find((image) => image.offsetParent)?.src ?? link.href;
      });
    }
  }

  /* A result of the search leads to the word, not to the top of its page. */
  function found() {
    if (location.hash) return;
    const word = document.querySelector("article .highlighted");
    for (let box = word?.closest("details:not([open])"); box; box = box.parentElement.closest("details:not([open])")) {
      box.open = true;
    }
    word?.scrollIntoView({ block: "center" });
  }

  /* What the search shows of a page is its text: no buttons, no code, no TeX. */
  const GREEK = { beta: "β", epsilon: "ε", theta: "θ", mu: "μ", sigma: "σ", phi: "φ" }; // those that the typefaces have
  function snippets() {
    if (typeof Search === "undefined" || !Search.htmlToText) return;
    const asBefore = Search.htmlToText;
    Search.htmlToText = (html, anchor) => {
      const parsed = new DOMParser().parseFromString(html, "text/html");
      const article = parsed.querySelector("article");
      if (!article) return asBefore(html, anchor);
      for (const part of article.querySelectorAll(".headerlink, script, style, .cell_input, .vae-about, button, summary")) part.remove();
      for (const formula of article.querySelectorAll(".math")) {
        formula.textContent = formula.textContent
          .replace(/\\[()[\]]/g, "")
          .replace(/\\([a-zA-Z]+)/g, (_, name) => GREEK[name] ?? "")
          .replace(/[{}]/g, "");
      }
      const part = anchor && article.querySelector(anchor);
      return (part || article).textContent.replace(/\s+/g, " ");
    };
  }

  function start() {
    guesses();
    codeSwitch();
    scrollable();
    maths();
    panels();
    figures();
    setTimeout(found, 0); // once Sphinx has marked the words
  }

  addEventListener("DOMContentLoaded", snippets); // once the search's own script is there
  if (document.readyState === "loading") addEventListener("DOMContentLoaded", start);
  else start();
})();
