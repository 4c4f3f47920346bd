// Painting with the symbols of a VQ-VAE: every change of the grid is decoded anew, by its decoder.

import { colours, framed, make, model, onChange, sharp } from "./live.js";

const SIDE = 7; // places of the grid, across and down
const BLOCK = 4; // pixels of a place, across and down
const PIXELS = SIDE * BLOCK;
const START = 2; // the garment that is there at first
const SEEN = 0.05; // a pixel counts as changed from here on, where black is 0 and white is 1

/* ---------------------------------------------------------------- the decoder */

/** A convolution that keeps the size, or (`up`) a transposed one that doubles it: channels last. */
function convolved({ inputs, outputs, kernel, up, weight, bias }, values, rectify) {
  const side = Math.sqrt(values.length / inputs);
  const wide = up ? 2 * side : side;
  const pad = (kernel - 1) >> 1;
  const found = new Float32Array(wide * wide * outputs);
  for (let at = 0; at < found.length; at += outputs) found.set(bias, at);
  for (let y = 0, from = 0; y < side; y++) {
    for (let x = 0; x < side; x++, from += inputs) {
      for (let ky = 0; ky < kernel; ky++) {
        const row = up ? 2 * y + ky - pad : y + pad - ky; // where this tap of the kernel writes
        if (row < 0 || row >= wide) continue;
        for (let kx = 0; kx < kernel; kx++) {
          const column = up ? 2 * x + kx - pad : x + pad - kx;
          if (column < 0 || column >= wide) continue;
          const to = (row * wide + column) * outputs;
          let w = (ky * kernel + kx) * inputs * outputs;
          for (let i = 0; i < inputs; i++, w += outputs) {
            const value = values[from + i];
            if (rectify && value <= 0) continue; // about half of them: as fast again
            for (let o = 0; o < outputs; o++) found[to + o] += value * weight[w + o];
          }
        }
      }
    }
  }
  return found;
}

/** What the decoder draws for a grid of symbols: 28 by 28 grey levels in [0, 1]. */
export function decode([codebook, ...layers], codes) {
  const size = codebook.outputs;
  let [before, values] = [null, new Float32Array(codes.length * size)];
  codes.forEach((code, place) =>
    values.set(codebook.weight.subarray(code * size, (code + 1) * size), place * size));
  layers.forEach((layer, i) => {
    const next = convolved(layer, values, i > 0);
    if (layer.adds) for (let j = 0; j < next.length; j++) next[j] += before[j];
    [before, values] = [values, next];
  });
  return values.map((v) => Math.min(1, Math.max(0, (v + 1) / 2)));
}

/* ---------------------------------------------------------------- drawing */

/** Grey levels in [0, 1] as a small canvas, each a pixel: bright is white, as in the book's pictures. */
function greys(values, width) {
  const canvas = document.createElement("canvas");
  [canvas.width, canvas.height] = [width, values.length / width];
  const context = canvas.getContext("2d");
  const pixels = context.createImageData(canvas.width, canvas.height);
  values.forEach((v, i) => pixels.data.set([255 * v, 255 * v, 255 * v, 255], 4 * i));
  context.putImageData(pixels, 0, 0);
  return canvas;
}

/** A picture that fills a canvas, each pixel a square; returns the context, and a pixel's size. */
function show(canvas, picture) {
  const { context, width } = sharp(canvas);
  context.imageSmoothingEnabled = false;
  context.drawImage(greys(picture, PIXELS), 0, 0, width, width);
  return { context, scale: width / PIXELS };
}

/** A frame that can be seen on black and on white. */
function outline(context, tone, x, y, width, height, dashes = []) {
  for (const [colour, line] of [[tone.ground, 5], [tone.accent, 2.5]]) {
    [context.strokeStyle, context.lineWidth] = [colour, line];
    context.setLineDash(colour === tone.accent ? dashes : []);
    context.strokeRect(x, y, width, height);
  }
  context.setLineDash([]);
}

/* ---------------------------------------------------------------- the hand */

const STEPS = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };

/**
 * Let a pointer paint on an element that shows the grid. `hand` is told what it does: `over` a place,
 * `begin` a stroke, `paint` a place, `take` its symbol. A finger that scrolls the page paints nothing:
 * what it touched first is painted when it is lifted, or has moved to another column.
 */
function paintable(element, hand) {
  let [down, waiting] = [false, null];
  const place = (event) => {
    const box = element.getBoundingClientRect();
    const [x, y] = [(event.clientX - box.left) / box.width, (event.clientY - box.top) / box.height];
    if (x < 0 || x >= 1 || y < 0 || y >= 1) return null;
    return Math.floor(y * SIDE) * SIDE + Math.floor(x * SIDE);
  };
  const release = () => {
    if (waiting !== null) hand.paint(waiting);
    waiting = null;
  };
  element.addEventListener("pointerdown", (event) => {
    const at = place(event);
    if (event.button !== 0 || at === null) return;
    hand.over(at);
    if (event.shiftKey) return hand.take(at);
    hand.begin();
    down = true;
    waiting = at;
    if (event.pointerType !== "touch") release();
  });
  element.addEventListener("pointermove", (event) => {
    if (!(event.buttons & 1)) down = false;
    for (const each of [...(event.getCoalescedEvents?.() ?? []), event]) { // all that it passed
      const at = place(each);
      if (at === null) continue;
      if (down && waiting !== null && waiting % SIDE === at % SIDE) continue;
      if (event.pointerType !== "touch" || down) hand.over(at);
      if (!down) continue;
      release();
      hand.paint(at);
    }
  });
  element.addEventListener("pointerup", () => {
    if (down) release();
    down = false;
  });
  element.addEventListener("pointercancel", () => ([down, waiting] = [false, null]));
}

/* ---------------------------------------------------------------- the figure */

export async function build(box, names) {
  const { layers, tiles, order, garments } = await model(names[0]);
  const pause = () => new Promise((done) => setTimeout(done));
  for (const garment of garments) {
    garment.picture = decode(layers, garment.codes);
    await pause(); // the page answers between two of them
  }

  const part = (title, name) => {
    const parent = make(box, "div", { class: `vae-paint-${name}` });
    make(parent, "p", { class: "vae-live-title" }, title);
    return parent;
  };
  const grid = make(part("49 symbols", "grid"), "canvas", {
    tabindex: "0", role: "application",
    "aria-label": "A grid of 7 by 7 symbols. Arrow keys move over it, Enter paints the chosen symbol, " +
      "with Shift it takes the symbol that is there; [ and ] choose another.",
  });
  const drawn = make(part("Decoded", "picture"), "canvas", { "aria-hidden": "true" });
  const out = make(box, "output", { class: "vae-live-readout" });
  const title = `The alphabet: ${tiles.length} symbols, from dark to bright`;
  const alphabet = make(part(title, "alphabet"), "canvas", {
    tabindex: "0", role: "application",
    "aria-label": `The alphabet of ${tiles.length} symbols. Arrow keys choose one.`,
  });
  const wardrobe = part("Start from", "garments");
  const buttons = make(box, "div", { class: "vae-paint-buttons" });
  make(box, "p", { class: "vae-live-hint" },
    "Choose a symbol, then click or drag over the grid or the picture. A tile shows what its symbol " +
    "draws on average; what it draws here depends on its neighbours, too. With Shift, a click takes " +
    "a symbol from its place. Keys: arrows, Enter, [ and ].");

  let codes = [...garments[START].codes];
  let picture = garments[START].picture;
  let [place, chosen] = [24, order[100]]; // the middle of the grid
  const first = (name) => `${name}: the first one among the test images.`;
  let said = first(garments[START].name);
  let stale = false; // the picture is of an earlier grid
  let stroke = null; // the places painted last, what was drawn before, and where that has changed

  const fresh = () => {
    if (stale) picture = decode(layers, codes);
    stale = false;
    return picture;
  };

  /** How far the last stroke reaches: in words, and as the frame around all that has changed. */
  const compare = () => {
    const { painted, before } = stroke;
    let [all, outside] = [0, 0];
    let [left, top, right, bottom] = [PIXELS, PIXELS, 0, 0];
    picture.forEach((grey, i) => {
      if (Math.abs(grey - before[i]) < SEEN) return;
      const [x, y] = [i % PIXELS, Math.floor(i / PIXELS)];
      all++;
      if (!painted.has(Math.floor(y / BLOCK) * SIDE + Math.floor(x / BLOCK))) outside++;
      [left, top] = [Math.min(left, x), Math.min(top, y)];
      [right, bottom] = [Math.max(right, x + 1), Math.max(bottom, y + 1)];
    });
    stroke.reach = all ? [left, top, right - left, bottom - top] : null;
    const [places, those] = painted.size === 1 ? ["1 place", "it"] : [`${painted.size} places`, "them"];
    said = `The last stroke painted ${places}, and ${all} of ${PIXELS ** 2} pixels changed ` +
      `by 5 % or more, ${outside} of them outside ${those}.`;
  };

  const sheet = greys(tiles.flat().map((v) => v / 255), BLOCK); // the tiles under each other
  const drawGrid = (tone) => {
    const { context, width } = sharp(grid);
    const size = width / SIDE;
    context.imageSmoothingEnabled = false;
    codes.forEach((code, i) => {
      const [x, y] = [(i % SIDE) * size, Math.floor(i / SIDE) * size];
      context.drawImage(sheet, 0, BLOCK * code, BLOCK, BLOCK, x + 0.5, y + 0.5, size - 1, size - 1);
    });
    outline(context, tone, (place % SIDE) * size, Math.floor(place / SIDE) * size, size, size);
  };
  const drawPicture = (tone) => {
    const { context, scale } = show(drawn, picture);
    if (stroke?.reach) outline(context, tone, ...stroke.reach.map((v) => v * scale), [5, 4]);
    const [x, y] = [place % SIDE, Math.floor(place / SIDE)].map((v) => v * BLOCK * scale);
    outline(context, tone, x, y, BLOCK * scale, BLOCK * scale);
  };
  const columns = () => {
    const { width } = alphabet.getBoundingClientRect();
    return width < 420 ? 12 : width < 640 ? 16 : 22; // 22 times 6 and 12 times 11 are 132
  };
  const drawAlphabet = (tone) => {
    const across = columns();
    alphabet.style.aspectRatio = `${across} / ${Math.ceil(tiles.length / across)}`;
    const { context, width } = sharp(alphabet);
    const size = width / across;
    context.imageSmoothingEnabled = false;
    [context.strokeStyle, context.lineWidth] = [tone.line, 1];
    order.forEach((code, i) => {
      const [x, y] = [(i % across) * size, Math.floor(i / across) * size];
      context.drawImage(sheet, 0, BLOCK * code, BLOCK, BLOCK, x + 1.5, y + 1.5, size - 3, size - 3);
      context.strokeRect(x + 1, y + 1, size - 2, size - 2);
    });
    const at = order.indexOf(chosen);
    const [x, y] = [at % across, Math.floor(at / across)].map((v) => v * size + 1.5);
    outline(context, tone, x, y, size - 3, size - 3);
  };
  let seen = ""; // what the alphabet was drawn of
  const draw = () => {
    const anew = stale;
    fresh();
    if (anew && stroke) compare();
    const tone = colours();
    drawGrid(tone);
    drawPicture(tone);
    const now = [chosen, tone.accent, alphabet.clientWidth, devicePixelRatio].join();
    if (now !== seen) drawAlphabet(tone); // not for each place that the pointer passes
    seen = now;
    out.textContent = `Chosen: symbol ${chosen}. Row ${Math.floor(place / SIDE) + 1}, column ` +
      `${(place % SIDE) + 1} holds symbol ${codes[place]}. ${said}`;
  };
  const redraw = framed(draw);

  const hand = {
    over(at) {
      place = at;
      redraw();
    },
    begin() {
      stroke = { painted: new Set(), before: fresh() };
    },
    paint(at) {
      if (stroke.painted.has(at)) return; // the hand is still there
      [place, codes[at], stale] = [at, chosen, true];
      stroke.painted.add(at);
      redraw();
    },
    take(at) {
      chosen = codes[at];
      redraw();
    },
  };
  const put = (wanted, words) => {
    [codes, said, stale, stroke] = [wanted, words, true, null];
    redraw();
  };
  /** Another symbol of the alphabet, so many tiles further. */
  const choose = (by) => {
    const to = order.indexOf(chosen) + by;
    if (to >= 0 && to < order.length) chosen = order[to];
    redraw();
  };

  for (const canvas of [grid, drawn]) paintable(canvas, hand);
  grid.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey) return;
    const step = STEPS[event.key];
    if (step) {
      const [x, y] = [(place % SIDE) + step[0], Math.floor(place / SIDE) + step[1]];
      const within = (v) => Math.min(SIDE - 1, Math.max(0, v));
      hand.over(within(y) * SIDE + within(x));
    } else if (event.key === "Enter" || event.key === " ") {
      if (event.shiftKey) hand.take(place);
      else {
        hand.begin();
        hand.paint(place);
      }
    } else if (event.key === "[") choose(-1);
    else if (event.key === "]") choose(1);
    else return;
    event.preventDefault();
  });
  alphabet.addEventListener("keydown", (event) => {
    const step = STEPS[event.key];
    if (!step) return;
    event.preventDefault();
    choose(step[0] + step[1] * columns());
  });
  alphabet.addEventListener("click", (event) => {
    const size = alphabet.getBoundingClientRect().width / columns();
    const at = Math.floor(event.offsetY / size) * columns() + Math.floor(event.offsetX / size);
    if (order[at] === undefined) return;
    chosen = order[at];
    redraw();
  });

  const rack = make(wardrobe, "div", { role: "group", "aria-label": "Start from a test image" });
  for (const { name, codes: own, picture: worn } of garments) {
    const button = make(rack, "button", { type: "button", "aria-label": name, title: name });
    const canvas = make(button, "canvas", { "aria-hidden": "true" });
    onChange(canvas, () => show(canvas, worn));
    button.addEventListener("click", () => put([...own], first(name)));
  }
  make(buttons, "button", { type: "button" }, "Shuffle the symbols").addEventListener("click", () => {
    const left = [...codes];
    const shuffled = codes.map(() => left.splice(Math.floor(Math.random() * left.length), 1)[0]);
    put(shuffled, "The same 49 symbols, each in a random place.");
  });
  make(buttons, "button", { type: "button" }, "Random symbols").addEventListener("click", () => {
    const any = codes.map(() => Math.floor(Math.random() * tiles.length));
    put(any, `49 symbols, all ${tiles.length} equally likely.`);
  });
  for (const canvas of [grid, drawn, alphabet]) onChange(canvas, redraw);
}
