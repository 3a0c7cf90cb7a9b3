// From a picture to the input of a network, as "preprocessing.resizing" of the manifest describes it.

const KERNELS = {
  bilinear: { reach: 1, weight: (x) => Math.max(0, 1 - x) },
  bicubic: {
    reach: 2, // with a = -0.5, as Pillow's
    weight: (x) => (x < 1 ? (1.5 * x - 2.5) * x * x + 1 : x < 2 ? ((-0.5 * x + 2.5) * x - 4) * x + 2 : 0),
  },
};

/** Which pixels of a line of `old` px make each of `count` px: [{first, weights}]. */
export function taps(old, count, { kernel, antialias, area = false }) {
  const scale = old / count;
  return Array.from({ length: count }, (_, place) => {
    if (area) return tapsOfArea(place * scale, Math.min((place + 1) * scale, old));
    const centre = (place + 0.5) * scale;
    const widened = antialias ? Math.max(scale, 1) : 1;
    const reach = KERNELS[kernel].reach * widened;
    if (!antialias) return tapsOfTwo(centre - 0.5, old);
    const first = Math.max(0, Math.floor(centre - reach + 0.5));
    const end = Math.min(old, Math.floor(centre + reach + 0.5));
    const weights = [];
    for (let x = first; x < end; x++) weights.push(KERNELS[kernel].weight(Math.abs(x - centre + 0.5) / widened));
    return { first, weights: normalised(weights) };
  });
}

function tapsOfTwo(place, old) {
  const first = Math.min(Math.max(Math.floor(place), 0), old - 1);
  const share = Math.min(Math.max(place - first, 0), 1);
  return share && first + 1 < old ? { first, weights: [1 - share, share] } : { first, weights: [1] };
}

function tapsOfArea(start, end) {
  const first = Math.floor(start + 1e-9);
  const weights = [];
  for (let x = first; x < end - 1e-9; x++) weights.push(Math.min(x + 1, end) - Math.max(x, start));
  return { first, weights: normalised(weights) };
}

function normalised(weights) {
  const total = weights.reduce((sum, weight) => sum + weight, 0);
  return weights.map((weight) => weight / total);
}

/** Resize planes: values of `height` rows of `width` px of `channels`, interleaved -> the same of `rows` x `columns`. */
export function resized(values, [height, width, channels], [rows, columns], how, rounded = (value) => value) {
  const across = taps(width, columns, how);
  const down = taps(height, rows, how);
  const between = new Float32Array(height * columns * channels);
  for (let y = 0; y < height; y++) {
    for (let x = 0; x < columns; x++) {
      const { first, weights } = across[x];
      for (let c = 0; c < channels; c++) {
        let sum = 0;
        for (let t = 0; t < weights.length; t++) sum += weights[t] * values[(y * width + first + t) * channels + c];
        between[(y * columns + x) * channels + c] = rounded(sum);
      }
    }
  }
  const result = new Float32Array(rows * columns * channels);
  const line = columns * channels;
  for (let y = 0; y < rows; y++) {
    const { first, weights } = down[y];
    for (let t = 0; t < weights.length; t++) {
      const weight = weights[t];
      const start = (first + t) * line;
      for (let x = 0; x < line; x++) result[y * line + x] += weight * between[start + x];
    }
  }
  return result.map(rounded);
}

const byte = (value) => Math.min(255, Math.max(0, Math.round(value)));
const evenRound = (value) => (value % 1 === 0.5 ? 2 * Math.round(value / 2) : Math.round(value)); // as Python's round

/**
 * Make the input of a network.
 *
 * @param picture ImageData.
 * @param about The manifest's input and preprocessing.
 * @returns (1, 3, H, W) as a typed array of the input's type.
 */
export function networkInput(picture, { input, preprocessing }) {
  const [, channels, height, width] = input.shape;
  if (channels !== 3 || preprocessing.layout !== "NCHW") throw new Error("this page shows networks of RGB, NCHW");
  const how = preprocessing.resizing;
  let size = [height, width];
  let [top, left] = [0, 0];
  if (how.geometry === "centre") {
    const shorter = Math.min(picture.width, picture.height);
    size = [picture.height, picture.width].map((side) => Math.floor((how.shorter_side * side) / shorter));
    [top, left] = [evenRound((size[0] - height) / 2), evenRound((size[1] - width) / 2)];
  } else if (how.geometry !== "stretch") {
    throw new Error(`this page does not know the geometry ${how.geometry}`);
  }
  const shrinks = [picture.height / size[0], picture.width / size[1]];
  const area = how.area_above !== null && Math.max(...shrinks) > how.area_above && Math.min(...shrinks) >= 1;
  const each = how.rounded === "after each axis" ? byte : undefined;
  const pixels = resized(picture.data, [picture.height, picture.width, 4], size, { ...how, area }, each);
  const values = new (input.dtype === "uint8" ? Uint8Array : Float32Array)(channels * height * width);
  const whole = input.dtype === "uint8" || how.rounded === "at the end";
  for (let y = 0; y < height; y++) {
    for (let x = 0; x < width; x++) {
      for (let c = 0; c < channels; c++) {
        const value = pixels[((y + top) * size[1] + x + left) * 4 + c];
        values[(c * height + y) * width + x] = whole ? byte(value) : value;
      }
    }
  }
  return values;
}
