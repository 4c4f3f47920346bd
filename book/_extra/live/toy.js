// Data in the plane and its latents, side by side: a point of one space, and its Gaussian in the other.

import { colours, forward, framed, make, model, movable, onChange, sharp, written } from "./live.js";

const HALF = { data: 7, latent: 3.6 }; // each plane shows [-HALF, HALF] on both axes
const LEVEL = 0.008; // the density along the outline: as in the stored figure, as are these two
const LEAST = 3.5; // nats, unshaded
const MOST = 10;
const SHORTENED = 1 / 3; // an arrow over the length of its posterior mean
const SECTORS = [0, 1, 2, 3, 4, 5, 6, 9]; // of the palette; all but the grey and a pale yellow
const DRAWS = 200;

/* ---------------------------------------------------------------- the model */

const squashed = (value, bound) => bound * Math.tanh(value / bound);

/** The posterior of a point x: its means and standard deviations. */
export function encode(about, x) {
  const found = forward(about.layers.slice(0, about.encoder), x);
  return { mean: [found[0], found[1]],
           scale: [2, 3].map((i) => Math.exp(0.5 * squashed(found[i], about.bound))) };
}

/** The decoder's Gaussian for a latent z: its means and standard deviations. */
export function decode(about, z) {
  const found = forward(about.layers.slice(about.encoder), z);
  const [low, high] = about.scales.map((scale) => 2 * Math.log(scale));
  const middle = (low + high) / 2;
  return { mean: [found[0], found[1]],
           scale: [2, 3].map((i) =>
             Math.exp(0.5 * (middle + squashed(found[i] - middle, high - middle)))) };
}

/** The KL term of a posterior, in nats. */
export const divergence = ({ mean, scale }) =>
  [0, 1].reduce((sum, i) =>
    sum + 0.5 * (mean[i] ** 2 + scale[i] ** 2 - 1) - Math.log(scale[i]), 0);

/** A draw from the standard normal (Box and Muller). */
const normal = () =>
  Math.sqrt(-2 * Math.log(1 - Math.random())) * Math.cos(2 * Math.PI * Math.random());

/* ---------------------------------------------------------------- what stands still */

/** Where a map of logs crosses a level: short lines, through the two triangles of each square. */
export function outline({ half, density }, level) {
  const side = Math.sqrt(density.length);
  const height = ([i, j]) => density[j * side + i] / 100 - Math.log(level);
  const cut = (from, to) => {
    const share = height(from) / (height(from) - height(to));
    return from.map((k, axis) => half * ((2 * (k + share * (to[axis] - k))) / (side - 1) - 1));
  };
  const lines = [];
  for (let i = 0; i + 1 < side; i++) {
    for (let j = 0; j + 1 < side; j++) {
      for (const corner of [[i, j], [i + 1, j + 1]]) {
        const ring = [corner, [i + 1, j], [i, j + 1]];
        const ends = ring.map((from, k) => [from, ring[(k + 1) % 3]])
          .filter(([from, to]) => height(from) > 0 !== height(to) > 0);
        if (ends.length) lines.push(ends.map(([from, to]) => cut(from, to)));
      }
    }
  }
  return lines;
}

/** The colour of each data point: that of its sector, which may turn with the distance. */
function sectors({ points, palette, sectors: n, twist }) {
  return points.map(([x, y]) => {
    const turned = (Math.atan2(y, x) - twist * Math.hypot(x, y)) / (2 * Math.PI);
    return palette[SECTORS[((Math.round(turned * n) % n) + n) % n]];
  });
}

/* ---------------------------------------------------------------- drawing */

/** Shade a plane: the more nats, the stronger the ink. */
function shade(context, width, { kl }, ink) {
  const side = Math.sqrt(kl.length);
  const small = document.createElement("canvas");
  [small.width, small.height] = [side, side];
  const brush = small.getContext("2d");
  const pixels = brush.createImageData(side, side);
  kl.forEach((hundredths, i) => {
    const row = side - 1 - Math.floor(i / side); // a picture begins at its top
    const share = Math.min(1, Math.max(0, (hundredths / 100 - LEAST) / (MOST - LEAST)));
    pixels.data[4 * (row * side + (i % side)) + 3] = 110 * share;
  });
  brush.putImageData(pixels, 0, 0);
  brush.globalCompositeOperation = "source-in";
  brush.fillStyle = ink;
  brush.fillRect(0, 0, side, side);
  context.imageSmoothingQuality = "high";
  const step = width / (side - 1); // the outermost pixels are centred on the edges
  context.drawImage(small, -step / 2, -step / 2, side * step, side * step);
}

function line(context, points) {
  context.beginPath();
  points.forEach((point) => context.lineTo(...point));
  context.stroke();
}

function disc(context, [x, y], radius) {
  context.beginPath();
  context.arc(x, y, radius, 0, 2 * Math.PI);
}

function arrow(context, [x, y], [toX, toY]) {
  const length = Math.hypot(toX - x, toY - y);
  if (length < 2) {
    disc(context, [x, y], 0.8);
    context.fill();
    return;
  }
  line(context, [[x, y], [toX, toY]]);
  const head = Math.min(4, length / 2);
  const [along, across] = [(toX - x) / length, (toY - y) / length].map((v) => v * head);
  context.beginPath();
  context.moveTo(toX + along / 2, toY + across / 2);
  context.lineTo(toX - along - across / 1.6, toY - across + along / 1.6);
  context.lineTo(toX - along + across / 1.6, toY - across - along / 1.6);
  context.fill();
}

/** One plane: a canvas, the point of the hand in it, and what stands still behind. */
function plane(parent, name, title, label) {
  const box = make(parent, "div", { class: "vae-toy-panel" });
  make(box, "p", { class: "vae-live-title" }, title);
  const canvas = make(box, "canvas", {
    class: "vae-live-plane", tabindex: "0", role: "application", "aria-label": label,
  });
  return { canvas, half: HALF[name], point: { u: 0.5, v: 0.5 }, back: null };
}

const place = (half, width) => ([x, y]) =>
  [(x / half + 1) * width / 2, (1 - y / half) * width / 2];

/** Move the point of a plane to coordinates. */
function moveTo({ point, half }, [x, y]) {
  [point.u, point.v] = [x, y].map((v) => Math.min(1, Math.max(0, (v / half + 1) / 2)));
}

const whereIs = ({ point, half }) => [point.u, point.v].map((share) => half * (2 * share - 1));

/** What stands still behind the hand, painted once and kept. */
function background({ canvas, half }, paint) {
  const back = document.createElement("canvas");
  [back.width, back.height] = [canvas.width, canvas.height];
  const width = canvas.getBoundingClientRect().width;
  const context = back.getContext("2d");
  context.scale(back.width / width, back.width / width);
  paint(context, width, place(half, width));
  return back;
}

function dots(context, points, fills, put) {
  context.globalAlpha = 0.75;
  points.forEach((point, i) => {
    context.fillStyle = fills[i];
    disc(context, put(point), 1.5);
    context.fill();
  });
  context.globalAlpha = 1;
}

function dataBehind(about, field) {
  return (context, width, put) => {
    const tone = colours();
    if (field) shade(context, width, about.maps, tone.text);
    dots(context, about.points, sectors(about), put);
    if (!field) return;
    [context.strokeStyle, context.fillStyle, context.lineWidth] = [tone.muted, tone.muted, 1];
    for (const [x, y, right, up] of about.arrows) {
      arrow(context, put([x, y]), put([x + SHORTENED * right, y + SHORTENED * up]));
    }
    [context.strokeStyle, context.lineWidth] = [tone.text, 1.4];
    outline(about.maps, LEVEL).forEach((ends) => line(context, ends.map(put)));
  };
}

function latentBehind(about) {
  return (context, width, put) => {
    dots(context, about.means, sectors(about), put);
    [context.strokeStyle, context.lineWidth] = [colours().muted, 1];
    context.setLineDash([4, 4]);
    for (const radius of [1, 2, 3]) {
      disc(context, put([0, 0]), (radius / HALF.latent) * (width / 2));
      context.stroke();
    }
  };
}

/** A Gaussian: its mean, and ellipses of one and two standard deviations. */
function gaussian(context, { mean, scale }, put, tone) {
  const [x, y] = put(mean);
  const [right, top] = put([mean[0] + scale[0], mean[1] + scale[1]]);
  for (const times of [2, 1]) {
    context.beginPath();
    context.ellipse(x, y, times * (right - x), times * (y - top), 0, 0, 2 * Math.PI);
    context.globalAlpha = 0.22;
    context.fillStyle = tone.accent;
    context.fill();
    context.globalAlpha = 1;
    for (const [colour, wide] of times === 2 ? [[tone.ground, 4], [tone.accent, 2]] : [[tone.accent, 1.3]]) {
      [context.strokeStyle, context.lineWidth] = [colour, wide];
      context.stroke();
    }
  }
  disc(context, [x, y], 1.6);
  context.fillStyle = tone.accent;
  context.fill();
}

function crosses(context, points, put, tone) {
  for (const [colour, wide] of [[tone.ground, 3], [tone.text, 1.3]]) {
    [context.strokeStyle, context.lineWidth] = [colour, wide];
    context.beginPath();
    for (const [x, y] of points.map(put)) {
      for (const side of [-2.4, 2.4]) {
        context.moveTo(x - 2.4, y - side);
        context.lineTo(x + 2.4, y + side);
      }
    }
    context.stroke();
  }
}

/** The place under the hand; it leaves its middle free, for what is drawn there. */
function hand(context, [x, y], tone) {
  for (const [colour, wide] of [[tone.ground, 5], [tone.text, 2.5]]) {
    [context.strokeStyle, context.lineWidth] = [colour, wide];
    for (const [right, up] of [[1, 0], [0, 1], [-1, 0], [0, -1]]) {
      line(context, [[x + 10 * right, y + 10 * up], [x + 17 * right, y + 17 * up]]);
    }
  }
  context.fillStyle = tone.text;
  disc(context, [x, y], 2);
  context.fill();
}

/* ---------------------------------------------------------------- the figure */

const pair = (values) => `(${values.map(written).join(", ")})`;
const both = (values) => values.map(written).join(" and ");

function inWords(mode, at, there, back) {
  if (mode === "latent") {
    return `z = ${pair(at)} is decoded to a Gaussian with mean ${pair(there.mean)} and standard ` +
      `deviations ${both(there.scale)}.`;
  }
  return `x = ${pair(at)}: its posterior has mean ${pair(there.mean)}, standard deviations ` +
    `${both(there.scale)}, and a KL term of ${written(divergence(there))} nats. The mean is ` +
    `decoded to ${pair(back.mean)}, with noise of ${both(back.scale)}.`;
}

export async function build(box, names) {
  const row = make(box, "div", { class: "vae-toy-row" });
  const choice = make(row, "span", { role: "group", "aria-label": "Data set" });
  const drawn = make(row, "button", { type: "button" }, `Draw ${DRAWS} samples`);
  const clear = make(row, "button", { type: "button", disabled: "" }, "Clear");
  const field = make(row, "button", { type: "button", "aria-pressed": "true" }, "KL map");
  const planes = {
    data: plane(box, "data", "Data space",
      "Data space. Arrow keys move a point x, with Shift further; its posterior is drawn in " +
      "latent space, and its reconstruction here."),
    latent: plane(box, "latent", "Latent space",
      "Latent space. Arrow keys move a latent z, with Shift further; the decoder's Gaussian is " +
      "drawn in data space."),
  };
  const out = make(box, "output", { class: "vae-toy-words" });
  make(box, "p", { class: "vae-live-hint" },
    "Move over either plane, or use the arrow keys. Ellipses: one and two standard deviations. In " +
    "data space the shade is the KL term, from 3.5 nats (none) to 10 (full); the arrows are " +
    "posterior means, at a third of their length; the outline surrounds the learnt density. In " +
    "latent space stand the posterior means of the data points, in the same colours; the dashed " +
    "circles are one, two and three of the prior's standard deviations.");

  let about = null;
  let mode = "data";
  let samples = [];

  const paint = () => {
    const tone = colours();
    const at = whereIs(planes[mode]);
    const there = mode === "data" ? encode(about, at) : decode(about, at);
    const back = mode === "data" ? decode(about, there.mean) : null;
    const shown = { data: back ?? there, latent: back && there };
    for (const [name, each] of Object.entries(planes)) {
      const { context, width } = sharp(each.canvas);
      if (!width) return; // not on the page yet
      const behind = name === "data" ? dataBehind(about, pressed(field)) : latentBehind(about);
      each.back ??= background(each, behind);
      context.drawImage(each.back, 0, 0, width, width);
      const put = place(each.half, width);
      crosses(context, samples.map((sample) => sample[name]), put, tone);
      if (back && name === "data") { // from the point to its reconstruction
        [context.strokeStyle, context.lineWidth] = [tone.accent, 1.5];
        line(context, [put(at), put(back.mean)]);
      }
      if (shown[name]) gaussian(context, shown[name], put, tone);
      if (name === mode) hand(context, put(at), tone);
    }
    moveTo(planes[mode === "data" ? "latent" : "data"], there.mean); // go on from there
    const crossed = samples.length
      ? ` Crosses: ${samples.length} draws of z from the prior, and of x from their Gaussians.` : "";
    out.textContent = inWords(mode, at, there, back) + crossed;
  };
  const redraw = framed(() => about && paint());
  const afresh = () => {
    for (const each of Object.values(planes)) each.back = null;
    redraw();
  };

  const pressed = (button) => button.getAttribute("aria-pressed") === "true";
  let wanted = null;
  const show = async (name) => {
    wanted = name;
    const got = await model(name);
    if (wanted !== name) return; // another set was asked for in the meantime
    about = got;
    for (const button of choice.children) {
      button.setAttribute("aria-pressed", button.dataset.name === name);
    }
    throwAway();
    mode = "data";
    moveTo(planes.data, about.points[0]);
    afresh();
  };
  const throwAway = () => {
    samples = [];
    clear.disabled = true;
  };

  for (const name of names) {
    const title = name.split("-")[0];
    const button = make(choice, "button", { type: "button", "data-name": name }, title);
    button.addEventListener("click", () => show(name));
  }
  field.addEventListener("click", () => {
    field.setAttribute("aria-pressed", !pressed(field));
    afresh();
  });
  drawn.addEventListener("click", () => {
    samples = Array.from({ length: DRAWS }, () => {
      const latent = [normal(), normal()];
      const { mean, scale } = decode(about, latent);
      return { latent, data: mean.map((v, i) => v + scale[i] * normal()) };
    });
    clear.disabled = false;
    redraw();
  });
  clear.addEventListener("click", () => {
    throwAway();
    redraw();
  });
  for (const [name, each] of Object.entries(planes)) {
    const here = () => {
      mode = name;
      redraw();
    };
    movable(each.canvas, each.point, here);
    each.canvas.addEventListener("focus", here);
    onChange(each.canvas, afresh);
  }
  await show(names[0]);
}
