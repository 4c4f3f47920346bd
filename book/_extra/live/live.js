// Figures under the reader's hand: the book's own decoders, run in the page. No library, no request
// to another host; nothing is loaded before its figure is seen, nothing moves unless asked.

const here = new URL(".", import.meta.url);
const loaded = new Map();

/* ---------------------------------------------------------------- networks */

/** A half-precision number from its 16 bits. */
function half(bits) {
  const sign = bits & 0x8000 ? -1 : 1;
  const exponent = (bits >> 10) & 31;
  const fraction = bits & 1023;
  if (exponent === 0) return sign * 2 ** -24 * fraction;
  if (exponent === 31) return fraction ? NaN : sign * Infinity;
  return sign * 2 ** (exponent - 25) * (1024 + fraction);
}

const sigmoid = (v) => 1 / (1 + Math.exp(-v));
const ACTIVATIONS = {
  none: (v) => v,
  relu: (v) => (v > 0 ? v : 0),
  sigmoid,
  silu: (v) => v * sigmoid(v),
  tanh: Math.tanh,
};

/**
 * The layers of a network: a header in JSON, then weights and biases as half-precision numbers. Of a
 * convolution the header says how wide its `kernel` is.
 */
export function parse(buffer) {
  const length = new DataView(buffer).getUint32(0, true);
  const about = JSON.parse(new TextDecoder().decode(new Uint8Array(buffer, 4, length)));
  const bits = new Uint16Array(buffer, 4 + length);
  const numbers = Float32Array.from(bits, half);
  let at = 0;
  about.layers = about.layers.map(({ activation, ...shape }) => {
    const { inputs, outputs, kernel = 1 } = shape;
    const weight = numbers.subarray(at, (at += kernel * kernel * inputs * outputs));
    const bias = numbers.subarray(at, (at += outputs));
    return { ...shape, weight, bias, activation: ACTIVATIONS[activation] };
  });
  return about;
}

/** What a network makes of one vector. */
export function forward(layers, input) {
  let values = input;
  for (const { inputs, outputs, weight, bias, activation } of layers) {
    const next = new Float32Array(outputs);
    for (let o = 0, w = 0; o < outputs; o++) {
      let sum = bias[o];
      for (let i = 0; i < inputs; i++) sum += weight[w++] * values[i];
      next[o] = activation(sum);
    }
    values = next;
  }
  return values;
}

/** A model by its name, fetched once. */
export function model(name) {
  if (!loaded.has(name)) {
    loaded.set(
      name,
      fetch(new URL(`${name}.bin`, here)).then(async (got) => {
        if (!got.ok) throw new Error(`${got.status} ${got.url}`);
        return parse(await got.arrayBuffer());
      }),
    );
  }
  return loaded.get(name);
}

/* ---------------------------------------------------------------- drawing */

/** The colours of the page as it is now: three numbers for the ink, a string for each other one. */
export function colours() {
  const style = getComputedStyle(document.documentElement);
  const of = (name) => style.getPropertyValue(name).trim();
  return { text: of("--pst-color-text-base"), line: of("--vae-line"), accent: of("--vae-warm"),
           ground: of("--pst-color-background") || "#fff", muted: of("--pst-color-text-muted") };
}

/** Make a canvas as sharp as the screen; returns its context, in units of CSS pixels. */
export function sharp(canvas) {
  const { width, height } = canvas.getBoundingClientRect();
  const ratio = window.devicePixelRatio || 1;
  const [w, h] = [Math.round(width * ratio), Math.round(height * ratio)];
  if (canvas.width !== w || canvas.height !== h) [canvas.width, canvas.height] = [w, h];
  const context = canvas.getContext("2d");
  context.setTransform(ratio, 0, 0, ratio, 0, 0);
  context.clearRect(0, 0, width, height);
  return { context, width, height };
}

const small = document.createElement("canvas");
[small.width, small.height] = [28, 28];

/** Grey levels in [0, 1] as ink on a canvas, each pixel a square. */
export function drawDigit(canvas, greys) {
  const { context, width } = sharp(canvas);
  const probe = document.createElement("canvas").getContext("2d");
  probe.fillStyle = colours().text;
  probe.fillRect(0, 0, 1, 1);
  const [r, g, b] = probe.getImageData(0, 0, 1, 1).data;
  const pixels = small.getContext("2d").createImageData(28, 28);
  for (let i = 0; i < 784; i++) pixels.data.set([r, g, b, Math.round(255 * greys[i])], 4 * i);
  small.getContext("2d").putImageData(pixels, 0, 0);
  context.imageSmoothingEnabled = false;
  context.drawImage(small, 0, 0, width, width);
}

/** Call back once per frame at most, however often it is asked for. */
export function framed(draw) {
  let waiting = false;
  return () => {
    if (waiting) return;
    waiting = true;
    requestAnimationFrame(() => {
      waiting = false;
      draw();
    });
  };
}

/** Call back when the page changes its theme, or an element its size. */
export function onChange(element, redraw) {
  new MutationObserver(redraw).observe(document.documentElement, {
    attributes: true, attributeFilter: ["data-theme"],
  });
  new ResizeObserver(redraw).observe(element);
}

export function make(parent, name, attributes = {}, text = "") {
  const element = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  element.textContent = text;
  parent.append(element);
  return element;
}

export const written = (value) => value.toFixed(2).replace("-0.00", "0.00").replace("-", "−");

/* ---------------------------------------------------------------- a point under the hand */

/**
 * Let pointer, touch and arrow keys move a point over an element.
 *
 * `moved(u, v)` is told where it is, as fractions of the width and of the height from the bottom. A
 * touch that starts sideways drags the point; one that starts upwards or downwards scrolls the page.
 */
export function movable(element, point, moved) {
  const set = (u, v) => {
    point.u = Math.min(1, Math.max(0, u));
    point.v = Math.min(1, Math.max(0, v));
    moved();
  };
  const follow = (event) => {
    const box = element.getBoundingClientRect();
    set((event.clientX - box.left) / box.width, 1 - (event.clientY - box.top) / box.height);
  };
  element.addEventListener("pointermove", (event) => {
    if (event.pointerType !== "touch" || event.buttons) follow(event);
  });
  element.addEventListener("pointerdown", follow);
  element.addEventListener("keydown", (event) => {
    const step = event.shiftKey ? 0.1 : 0.02;
    const by = { ArrowLeft: [-step, 0], ArrowRight: [step, 0],
                 ArrowUp: [0, step], ArrowDown: [0, -step] }[event.key];
    if (!by) return;
    event.preventDefault();
    set(point.u + by[0], point.v + by[1]);
  });
}

/* ---------------------------------------------------------------- the front page's map */

/** The standard normal's quantile: where a share p of its draws lies below (by bisection). */
export function quantile(p) {
  let [low, high] = [-6, 6];
  for (let i = 0; i < 40; i++) {
    const middle = (low + high) / 2;
    if (normalBelow(middle) < p) low = middle;
    else high = middle;
  }
  return (low + high) / 2;
}

/** Phi(x), by Simpson's rule on the density. */
function normalBelow(x) {
  const n = 40;
  const h = x / n;
  const density = (t) => Math.exp((-t * t) / 2) / Math.sqrt(2 * Math.PI);
  let sum = density(0) + density(x);
  for (let i = 1; i < n; i++) sum += (i % 2 ? 4 : 2) * density(i * h);
  return 0.5 + (sum * h) / 3;
}

/** A lens over the map: it shows what the decoder draws of the very point under it. */
function hero(image) {
  const box = document.createElement("div");
  box.className = "vae-live-hero";
  image[0].before(box);
  box.append(...image);
  const area = make(box, "div", {
    class: "vae-live-area", tabindex: "0", role: "application",
    "aria-label": "The map under your hand. Arrow keys move a lens over it, with Shift further; " +
      "the decoder draws the digit of each place.",
  });
  const lens = make(box, "div", { class: "vae-live-lens", hidden: "" });
  const digit = make(lens, "canvas", { "aria-hidden": "true" });
  const out = make(lens, "output");
  const hint = make(box, "p", { class: "vae-live-hint" },
    "Move over the map. The digit in the lens is drawn this moment, in your browser, by the decoder of chapter 2.");
  box.after(hint);
  const point = { u: 0.5, v: 0.5 };
  let network = null;

  const draw = () => {
    if (!network) return;
    lens.hidden = false;
    const z = [point.u, point.v].map((p) => quantile(Math.min(0.995, Math.max(0.005, p))));
    drawDigit(digit, forward(network.layers, z));
    out.textContent = `z = (${z.map(written).join(", ")})`;
    const { width, height } = area.getBoundingClientRect();
    const [x, y] = [point.u * width, (1 - point.v) * height];
    const above = y - lens.offsetHeight - 16; // so that the point stays in sight
    lens.style.left = `${Math.min(width - lens.offsetWidth, Math.max(0, x - lens.offsetWidth / 2))}px`;
    lens.style.top = `${above > -60 ? above : y + 18}px`;
    area.style.setProperty("--x", `${x}px`);
    area.style.setProperty("--y", `${y}px`);
    area.classList.add("vae-live-on");
  };
  const redraw = framed(draw);
  movable(area, point, redraw);
  area.addEventListener("focus", redraw);
  onChange(area, () => lens.hidden || redraw());
  whenNear(area, async () => {
    network = await model("vae-2d");
    if (area.matches(":hover, :focus")) redraw();
  });
}

/* ---------------------------------------------------------------- where they stand */

const complain = (error) => console.warn("This figure stays still:", error);

/** Call back once, when a mouse moves over the page, or a finger or the focus comes to an element. */
function whenNear(element, start) {
  const done = new AbortController();
  const go = (event) => {
    if (event.type === "pointermove" && event.pointerType === "touch") return;
    done.abort();
    start().catch(complain);
  };
  for (const sign of ["pointerdown", "focus"]) element.addEventListener(sign, go, { signal: done.signal });
  addEventListener("pointermove", go, { signal: done.signal });
}

/** Call back once, when an element is first seen, and the page itself is there. */
function whenSeen(element, start) {
  const watch = new IntersectionObserver((entries) => {
    if (!entries.some((entry) => entry.isIntersecting)) return;
    watch.disconnect();
    const go = () => start().catch(complain);
    if (document.readyState === "complete") go();
    else addEventListener("load", go, { once: true });
  });
  watch.observe(element);
}

function setUp() {
  const map = document.querySelectorAll("img.vae-hero");
  if (map.length) hero([...map]);
  for (const cell of document.querySelectorAll("[data-live]")) {
    whenSeen(cell, async () => {
      const { build } = await import(`./${cell.dataset.live}.js`);
      const still = cell.querySelector("img");
      const dark = still.matches(".only-light") ? still.nextElementSibling : still;
      const frame = document.createElement("div");
      frame.className = `vae-live vae-live-${cell.dataset.live}`;
      await build(frame, cell.dataset.runs.split(" "));
      if ("keep" in cell.dataset) {
        (still.closest("figure") ?? dark).after(frame); // and the still figure stays
        return;
      }
      (still.closest("a") ?? still).before(frame);
      for (const image of [still, dark]) {
        (image.closest("a") ?? image).classList.add("vae-live-still"); // printed, where nothing moves
      }
    });
  }
}

if (typeof document !== "undefined") setUp();
