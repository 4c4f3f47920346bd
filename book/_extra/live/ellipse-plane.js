// A true posterior on a grid, and how far a Gaussian is from it. In the page this runs as a Worker;
// it draws nothing, so that it can.

const softplus = (l) => Math.max(l, 0) + Math.log1p(Math.exp(-Math.abs(l)));
const LOG_2PI = Math.log(2 * Math.PI);

/** log p(x|z) + log p(z) at points (z1, z2, z1, z2, ...), for grey levels `ink` in [0, 1]. */
export function logJoint(layers, ink, points) {
  const found = new Float64Array(points.length / 2);
  const widest = Math.max(...layers.map(({ outputs }) => outputs));
  const rows = [0, 1].map(() => [0, 1, 2, 3].map(() => new Float64Array(widest)));
  for (let first = 0; first < found.length; first += 4) { // four at once: each weight is read once
    let [from, to] = rows;
    for (let p = 0; p < 4; p++) {
      const at = 2 * Math.min(first + p, found.length - 1);
      [from[p][0], from[p][1]] = [points[at], points[at + 1]];
    }
    layers.forEach(({ inputs, outputs, weight, bias }, depth) => {
      const [a, b, c, d] = from;
      for (let o = 0, w = 0; o < outputs; o++) {
        let s = bias[o], t = s, u = s, v = s;
        for (let i = 0; i < inputs; i++, w++) {
          const k = weight[w];
          s += k * a[i];
          t += k * b[i];
          u += k * c[i];
          v += k * d[i];
        }
        [to[0][o], to[1][o], to[2][o], to[3][o]] = [s, t, u, v];
      }
      if (depth < layers.length - 1) { // SiLU between the layers, logits at the end
        for (const row of to) for (let o = 0; o < outputs; o++) row[o] /= 1 + Math.exp(-row[o]);
      }
      [from, to] = [to, from];
    });
    for (let p = 0; p < 4 && first + p < found.length; p++) {
      const [x, y] = [points[2 * (first + p)], points[2 * (first + p) + 1]];
      let sum = -LOG_2PI - (x * x + y * y) / 2;
      for (let i = 0; i < ink.length; i++) sum += ink[i] * from[p][i] - softplus(from[p][i]);
      found[first + p] = sum;
    }
  }
  return found;
}

/** A square grid of n x n points around a centre, `half` to each side, row by row from below. */
export function square([x, y], half, n) {
  const step = (2 * half) / (n - 1);
  const points = new Float64Array(2 * n * n);
  for (let i = 0, at = 0; i < n; i++) {
    for (let j = 0; j < n; j++) {
      points[at++] = x - half + j * step;
      points[at++] = y - half + i * step;
    }
  }
  return points;
}

/** Values on a square grid as a smooth surface: cubics through the four nearest points a side. */
function surface([x, y], half, n, values) {
  const step = (2 * half) / (n - 1);
  const cubic = (a, b, c, d, t) =>
    b + 0.5 * t * (c - a + t * (2 * a - 5 * b + 4 * c - d + t * (3 * (b - c) + d - a)));
  return (z1, z2) => {
    const [u, v] = [(z1 - x + half) / step, (z2 - y + half) / step];
    const j = Math.min(n - 3, Math.max(1, Math.floor(u)));
    const i = Math.min(n - 3, Math.max(1, Math.floor(v)));
    const row = (k) => {
      const at = k * n + j;
      return cubic(values[at - 1], values[at], values[at + 1], values[at + 2], u - j);
    };
    return cubic(row(i - 1), row(i), row(i + 1), row(i + 2), v - i);
  };
}

const FINE = 60; // points a side over what is seen,
const COARSE = 48; // and over three times its width, where the tails of a wide Gaussian lie

/** The grids that an image's posterior is computed on. */
export const grids = ({ centre, half }) => [
  { centre, half, n: FINE },
  { centre, half: 3 * half, n: COARSE },
];

/** From the log joint on both grids: log p(x), the log joint anywhere, and the gap of a Gaussian. */
export function posterior({ centre, half }, [fine, coarse]) {
  const peak = fine.reduce((a, b) => Math.max(a, b));
  const cell = ((2 * half) / (FINE - 1)) ** 2;
  const logPx = peak + Math.log(cell * fine.reduce((sum, f) => sum + Math.exp(f - peak), 0));
  const near = surface(centre, half, FINE, fine);
  const far = surface(centre, 3 * half, COARSE, coarse);
  const at = (x, y) =>
    Math.max(Math.abs(x - centre[0]), Math.abs(y - centre[1])) <= half ? near(x, y) : far(x, y);

  /** KL(q(z) || p(z|x)) = E_q[log q(z) - log p(x, z)] + log p(x), in nats. */
  const gap = ({ mean: [x, y], sds: [s, t], angle }) => {
    const [c, d] = [Math.cos(angle), Math.sin(angle)];
    let [sum, total] = [0, 0];
    for (let i = -8; i <= 8; i++) { // a grid of 17 x 17 points in q's own standard deviations
      for (let j = -8; j <= 8; j++) {
        const weight = Math.exp(-(i * i + j * j) / 8);
        const [u, v] = [(s * i) / 2, (t * j) / 2];
        sum += weight * at(x + u * c - v * d, y + u * d + v * c);
        total += weight;
      }
    }
    return -(LOG_2PI + 1 + Math.log(s * t)) - sum / total + logPx;
  };
  return { at, gap, logPx, peak };
}

/** The Worker: it is told the layers once, then an image at a time. */
const inWorker = typeof WorkerGlobalScope !== "undefined" && self instanceof WorkerGlobalScope;
if (inWorker) {
  let layers = null;
  self.onmessage = ({ data }) => {
    if (data.layers) {
      layers = data.layers.map((layer) => ({
        ...layer, weight: Float64Array.from(layer.weight), bias: Float64Array.from(layer.bias),
      }));
      return;
    }
    const wanted = grids(data.view);
    const all = wanted.reduce((sum, { n }) => sum + n * n, 0);
    let done = 0;
    const values = wanted.map(({ centre, half, n }) => {
      const points = square(centre, half, n);
      const found = new Float64Array(n * n);
      for (let at = 0; at < n * n; at += 512) {
        const part = logJoint(layers, data.ink, points.subarray(2 * at, 2 * (at + 512)));
        found.set(part, at);
        done += part.length;
        self.postMessage({ image: data.image, share: done / all });
      }
      return found;
    });
    self.postMessage({ image: data.image, values });
  };
}
