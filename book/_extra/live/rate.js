// Rate and distortion: seven models on one curve, and what each makes of an image that you draw.

import { colours, drawDigit, forward, framed, make, model, onChange, sharp } from "./live.js";

const SIDE = 28;
const DRAWS = 8;
const AUDIBLE = 0.1; // nats: what a latent carries that is counted as more than nothing
const words = (value) => value.toFixed(1).replace("-", "−");
const sigmoid = (v) => 1 / (1 + Math.exp(-v));

/* ---------------------------------------------------------------- the model */

/** The posterior of an image of zeros and ones: means, log-variances, and the KL term of each latent. */
export function encode({ layers, encoder, bound }, image) {
  const numbers = forward(layers.slice(0, encoder), image);
  const mean = numbers.subarray(0, numbers.length / 2);
  const logVariance = numbers.slice(numbers.length / 2)
    .map((v) => (bound === null ? v : bound * Math.tanh(v / bound)));
  const kl = mean.map((m, i) => (m * m + Math.exp(logVariance[i]) - 1 - logVariance[i]) / 2);
  return { mean, logVariance, kl };
}

/** The logits of the pixels that a latent is decoded to. */
export const decode = ({ layers, encoder }, z) => forward(layers.slice(encoder), z);

/** What an image of zeros and ones costs under these logits, in nats. */
export function cost(logits, image) {
  let sum = 0;
  logits.forEach((l, i) => (sum += Math.max(l, 0) + Math.log1p(Math.exp(-Math.abs(l))) - l * image[i]));
  return sum;
}

/** Draws from the standard normal: from the same seed the same ones (mulberry32, Box and Muller). */
export function normals(seed, count) {
  let state = (seed * 0x9e3779b9) | 0;
  const uniform = () => {
    state = (state + 0x6d2b79f5) | 0;
    let t = Math.imul(state ^ (state >>> 15), 1 | state);
    t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t;
    return ((t ^ (t >>> 14)) >>> 0) / 2 ** 32;
  };
  return Float32Array.from({ length: count }, () =>
    Math.sqrt(-2 * Math.log(1 - uniform())) * Math.cos(2 * Math.PI * uniform()));
}

/** Ink the pixels near the way of a pen; places are in pixels from the upper left corner. */
export function stroke(image, [x0, y0], [x1, y1], radius = 1.1) {
  const [dx, dy] = [x1 - x0, y1 - y0];
  for (let i = 0; i < image.length; i++) {
    const [x, y] = [(i % SIDE) + 0.5 - x0, Math.floor(i / SIDE) + 0.5 - y0];
    const along = Math.min(1, Math.max(0, (x * dx + y * dy) / (dx * dx + dy * dy || 1)));
    if (Math.hypot(x - along * dx, y - along * dy) <= radius) image[i] = 1;
  }
}

/** An image from the hexadecimal digits of digits.json. */
const pixels = (digits) => Float32Array.from([...digits].flatMap((digit) =>
  [8, 4, 2, 1].map((bit) => (parseInt(digit, 16) & bit ? 1 : 0))));

/* ---------------------------------------------------------------- drawing */

/** A plot's frame: places on the canvas for values, and the ticks of both axes. */
function axes(canvas, { left, right = 8, top = 8, bottom = 36, x, y, ticks, names }) {
  const { context, width, height } = sharp(canvas);
  const tone = colours();
  const place = (u, v) => [left + ((u - x[0]) / (x[1] - x[0])) * (width - left - right),
                           height - bottom - ((v - y[0]) / (y[1] - y[0])) * (height - top - bottom)];
  const line = (colour, thick, from, to) => {
    [context.strokeStyle, context.lineWidth] = [colour, thick];
    context.beginPath();
    context.moveTo(...place(...from));
    context.lineTo(...place(...to));
    context.stroke();
  };
  context.font = `12px ${getComputedStyle(canvas).fontFamily}`;
  const write = (text, px, py, align = "center", base = "middle", colour = tone.muted) => {
    [context.fillStyle, context.textAlign, context.textBaseline] = [colour, align, base];
    context.fillText(text, px, py);
  };
  line(tone.muted, 1, [x[0], y[0]], [x[1], y[0]]);
  ticks[0].forEach((u) => write(u, place(u, 0)[0], height - bottom + 5, "center", "top"));
  ticks[1].forEach((v) => write(v, left - 6, place(0, v)[1], "right"));
  write(names[0], (left + width - right) / 2, height - 2, "center", "bottom");
  if (names[1]) {
    line(tone.muted, 1, [x[0], y[0]], [x[0], y[1]]);
    context.save();
    context.translate(8, (top + height - bottom) / 2);
    context.rotate(-Math.PI / 2);
    write(names[1], 0, 0);
    context.restore();
  }
  return { context, place, line, write, tone };
}

const range = (from, to, step) =>
  Array.from({ length: Math.floor((to - from) / step + 1e-9) + 1 }, (_, i) => from + i * step);

const MARGIN = { left: 48, right: 8 };
const rightmost = (curve) => 1.14 * Math.max(...curve.map(([, rate]) => rate));

/** The points, each with its slope; for the chosen one also the line of all sums that equal its own. */
function drawCurve(canvas, curve, chosen) {
  const distortions = curve.map(([, , distortion]) => distortion);
  const x = [0, rightmost(curve)];
  const y = [Math.min(...distortions) - 14, Math.max(...distortions) + 14];
  const { context, place, line, write, tone } = axes(canvas, {
    ...MARGIN, x, y, ticks: [range(0, x[1], 10), range(Math.ceil(y[0] / 20) * 20, y[1], 20)],
    names: ["rate: KL term, nats per image", "distortion, nats per image"],
  });
  const blue = getComputedStyle(canvas).getPropertyValue("--vae-accent");
  const sums = curve.map(([, rate, distortion]) => rate + distortion);
  const [[x0, y0], [x1, y1]] = [place(x[0], y[1]), place(x[1], y[0])];
  context.save();
  context.beginPath();
  context.rect(x0, y0, x1 - x0, y1 - y0);
  context.clip();
  const level = (sum, colour, thick) => line(colour, thick, [0, sum], [x[1], sum - x[1]]);
  range(80, 200, 20).forEach((sum) => level(sum, tone.line, 1));
  context.setLineDash([5, 4]);
  level(sums[chosen], tone.muted, 1.5);
  context.setLineDash([]);
  [context.strokeStyle, context.lineWidth] = [blue, 2];
  context.beginPath();
  for (const [, rate, distortion] of curve) context.lineTo(...place(rate, distortion));
  context.stroke();
  for (const [beta, rate, distortion] of curve) {
    const reach = 3.6 / Math.hypot(1, beta / 3);
    line(tone.text, 1.5, [rate - reach, distortion + beta * reach], [rate + reach, distortion - beta * reach]);
  }
  context.restore();
  curve.forEach(([beta, rate, distortion], i) => {
    const [px, py] = place(rate, distortion);
    const dot = (radius, colour) => {
      context.fillStyle = colour;
      context.beginPath();
      context.arc(px, py, radius, 0, 2 * Math.PI);
      context.fill();
    };
    if (i === chosen) [[10.5, tone.text], [8, tone.ground]].forEach((ring) => dot(...ring));
    dot(i === chosen ? 6 : 5, sums[i] === Math.min(...sums) ? tone.accent : blue);
    context.font = context.font.replace(/^(bold )?/, i === chosen ? "bold " : "");
    const text = i === curve.length - 1 ? `β = ${beta}` : `${beta}`;
    write(text, Math.min(px + 11, x1 + MARGIN.right - context.measureText(text).width), py - 15,
      "left", "middle", tone.text);
  });
}

/** A bar for each latent's KL term, the largest first. */
function drawBars(canvas, kl) {
  const sorted = [...kl].sort((a, b) => b - a);
  const top = Math.max(8, Math.ceil(sorted[0] / 4) * 4); // the same for most images and every beta
  const ticks = [[], range(0, top, top / 4)];
  const { context, place, line, tone } = axes(canvas, {
    left: 30, bottom: 20, x: [0, sorted.length], y: [0, top], ticks,
    names: ["the latents, sorted; nats", ""],
  });
  for (const v of ticks[1].slice(1)) line(tone.line, 1, [0, v], [sorted.length, v]);
  context.fillStyle = getComputedStyle(canvas).getPropertyValue("--vae-accent");
  sorted.forEach((nats, i) => {
    const [[px, py], [qx, qy]] = [place(i + 0.14, nats), place(i + 0.86, 0)];
    context.fillRect(px, py, qx - px, qy - py);
  });
}

/* ---------------------------------------------------------------- the pad */

/** A pad of 28 x 28 pixels that pointer, finger and keys draw on; `drawn` is told of each change. */
function pad(parent, image, drawn) {
  const canvas = make(parent, "canvas", {
    class: "vae-rate-pad", tabindex: "0", role: "application",
    "aria-label": "A pad to draw a digit on. Arrow keys move the pen, with Shift they draw, " +
      "Space puts a dot, Delete clears.",
  });
  const pen = [SIDE / 2, SIDE / 2];
  const state = { fresh: true }; // an image that nobody drew on: a first stroke takes its place
  let down = false;
  const ink = (from) => {
    if (state.fresh) image.fill(0);
    state.fresh = false;
    stroke(image, from, pen);
    drawn();
  };
  const go = (event) => {
    const box = canvas.getBoundingClientRect();
    const from = [...pen];
    pen[0] = ((event.clientX - box.left) / box.width) * SIDE;
    pen[1] = ((event.clientY - box.top) / box.height) * SIDE;
    return from;
  };
  canvas.addEventListener("pointerdown", (event) => {
    if (event.button) return;
    down = true;
    canvas.setPointerCapture(event.pointerId);
    go(event);
    ink(pen);
  });
  canvas.addEventListener("pointermove", (event) => {
    if (!down) return;
    const between = event.getCoalescedEvents?.() ?? [];
    for (const each of between.length ? between : [event]) ink(go(each));
  });
  for (const end of ["pointerup", "pointercancel"]) {
    canvas.addEventListener(end, () => (down = false));
  }
  canvas.addEventListener("keydown", (event) => {
    const by = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1],
                 " ": [0, 0] }[event.key];
    const clear = event.key === "Delete" || event.key === "Backspace";
    if (!by && !clear) return;
    event.preventDefault();
    if (clear) state.put(new Float32Array(SIDE * SIDE), false);
    else {
      const from = [...pen];
      by.forEach((step, axis) => (pen[axis] = Math.min(SIDE - 1, Math.max(1, Math.round(pen[axis] + step)))));
      if (event.shiftKey || event.key === " ") ink(from);
      else drawn();
    }
  });
  canvas.addEventListener("focus", drawn);
  canvas.addEventListener("blur", drawn);
  state.put = (other, fresh) => {
    image.set(other);
    state.fresh = fresh;
    drawn();
  };
  state.draw = () => {
    drawDigit(canvas, image);
    const context = canvas.getContext("2d");
    const unit = canvas.getBoundingClientRect().width / SIDE;
    const tone = colours();
    [context.strokeStyle, context.lineWidth] = [tone.muted, 1];
    context.setLineDash([3, 4]);
    context.strokeRect(4 * unit, 4 * unit, 20 * unit, 20 * unit); // MNIST's digits fit into it
    context.setLineDash([]);
    if (!canvas.matches(":focus-visible")) return;
    [context.strokeStyle, context.lineWidth] = [tone.accent, 2];
    context.beginPath();
    context.arc(pen[0] * unit, pen[1] * unit, 1.6 * unit, 0, 2 * Math.PI);
    context.stroke();
  };
  return state;
}

/* ---------------------------------------------------------------- the figure */

export async function build(box, names) {
  const first = names.indexOf("beta-1");
  const [start, hex] = await Promise.all([
    model(names[first]),
    fetch(new URL("digits.json", import.meta.url)).then((got) => got.json()),
  ]);
  const { curve } = start; // of each model beta, rate and distortion
  const digits = hex.map(pixels);
  const image = Float32Array.from(digits[3]);
  let [chosen, shown, network, seed] = [first, first, start, 1];

  const left = make(box, "div", { class: "vae-rate-side" });
  const plot = make(left, "canvas", {
    class: "vae-rate-curve", role: "img",
    "aria-label": "Seven models on a falling curve of distortion over rate, from beta 8 at low rate " +
      "to beta 0.1 at high rate. The slider below chooses one.",
  });
  const price = make(left, "div", { class: "vae-rate-price" });
  const name = make(price, "span", { "aria-hidden": "true" });
  const slider = make(price, "input", {
    type: "range", min: "0", max: `${curve.length - 1}`, step: "1",
    "aria-label": "beta, the price of a nat of rate",
  });
  slider.value = chosen;
  const marks = make(price, "div", { class: "vae-rate-marks", "aria-hidden": "true" });
  for (const [beta] of curve) make(marks, "span", {}, `${beta}`);
  const average = make(left, "output", { class: "vae-rate-said" });

  const right = make(box, "div", { class: "vae-rate-side" });
  const pair = make(right, "div", { class: "vae-rate-pair" });
  const [yours, redrawn] = [make(pair, "div"), make(pair, "div")];
  const head = make(yours, "p", { class: "vae-rate-head" }, "Draw here");
  const clear = make(head, "button", { type: "button" }, "Clear");
  const title = make(redrawn, "p", { class: "vae-rate-head" });
  const reconstruction = make(redrawn, "canvas", { class: "vae-rate-image", "aria-hidden": "true" });
  const samples = make(right, "div", { class: "vae-rate-examples", role: "group", "aria-label": "Test images" });
  const terms = make(right, "p", { class: "vae-rate-head" }, "KL term of each latent");
  const sum = make(terms, "span", { class: "vae-rate-sum" });
  const bars = make(right, "canvas", { class: "vae-rate-bars", "aria-hidden": "true" });
  const own = make(right, "output", { class: "vae-rate-said" });

  const below = make(box, "div", { class: "vae-rate-below" });
  const line = make(below, "p", { class: "vae-rate-head" });
  const drawsTitle = make(line, "span");
  const other = make(line, "button", { type: "button" }, "Other draws");
  const row = make(below, "div", { class: "vae-rate-draws", "aria-hidden": "true" });
  const draws = Array.from({ length: DRAWS }, () => make(row, "canvas"));
  make(box, "p", { class: "vae-live-hint" },
    "Move the slider, or choose a point. The seven models are the chapter's own and run in your browser. " +
    "Draw as large as the dashed square: so are MNIST's digits.");

  const drawModel = () => {
    const [beta, rate, distortion] = curve[chosen];
    drawCurve(plot, curve, chosen);
    name.textContent = `β = ${beta}`;
    slider.setAttribute("aria-valuetext", `beta ${beta}`);
    average.textContent = `Test images: rate ${words(rate)} + distortion ${words(distortion)} = ` +
      `${words(rate + distortion)} nats (dashed: equal sums).`;
  };
  const drawImage = () => {
    const { mean, kl } = encode(network, image);
    const logits = decode(network, mean);
    paper.draw();
    drawDigit(reconstruction, logits.map(sigmoid));
    drawBars(bars, kl);
    title.textContent = `Redrawn, β\u2009=\u2009${curve[shown][0]}`; // thin spaces: a telephone is narrow
    const rate = words(kl.reduce((a, b) => a + b));
    sum.textContent = `sum ${rate}`;
    const carrying = kl.filter((nats) => nats > AUDIBLE).length;
    own.textContent = `This image: rate ${rate} nats; ` +
      `${carrying} of ${kl.length} latents carry more than ${AUDIBLE}. ` +
      `Given the posterior mean, its pixels cost ${words(cost(logits, image))} nats.`;
    examples.forEach((button, i) =>
      button.setAttribute("aria-pressed", paper.fresh && digits[i].every((v, k) => v === image[k])));
  };
  const drawDraws = () => {
    const size = encode(network, image).mean.length;
    const noise = normals(seed, DRAWS * size);
    draws.forEach((canvas, i) =>
      drawDigit(canvas, decode(network, noise.subarray(i * size, (i + 1) * size)).map(sigmoid)));
    drawsTitle.textContent = `From the prior, β = ${curve[shown][0]}`;
  };

  const redraw = { model: framed(drawModel), image: framed(drawImage), draws: framed(drawDraws) };
  const all = () => Object.values(redraw).forEach((again) => again());
  const paper = pad(yours, image, redraw.image);
  const examples = digits.map((digit, i) => {
    const button = make(samples, "button", { type: "button", "aria-label": `Test image of a ${i}` });
    make(button, "canvas", { "aria-hidden": "true" });
    button.addEventListener("click", () => paper.put(digit, true));
    return button;
  });
  const drawExamples = framed(() => examples.forEach((b, i) => drawDigit(b.firstChild, digits[i])));
  const choose = async (index) => {
    chosen = index;
    slider.value = index;
    redraw.model();
    try {
      const got = await model(names[index]);
      if (chosen !== index) return; // the hand was faster than the network
      [network, shown] = [got, index];
      all();
    } catch (error) {
      console.warn(error);
      if (chosen === index) average.textContent = `The model of β = ${curve[index][0]} could not be loaded.`;
    }
  };
  slider.addEventListener("input", () => choose(Number(slider.value)));
  const nearest = (event) => {
    const { left: x0, width } = plot.getBoundingClientRect();
    const along = (event.clientX - x0 - MARGIN.left) / (width - MARGIN.left - MARGIN.right);
    const far = curve.map(([, rate]) => Math.abs(rate - along * rightmost(curve)));
    const index = far.indexOf(Math.min(...far));
    if (index !== chosen) choose(index);
  };
  plot.addEventListener("pointerdown", nearest);
  plot.addEventListener("pointermove", (event) => event.buttons && nearest(event));
  clear.addEventListener("click", () => paper.put(new Float32Array(SIDE * SIDE), false));
  other.addEventListener("click", () => {
    seed += 1;
    redraw.draws();
  });
  onChange(box, () => {
    all();
    drawExamples();
  });
}
