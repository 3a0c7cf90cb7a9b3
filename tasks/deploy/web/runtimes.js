// Artifacts opened in ONNX Runtime Web or LiteRT.js, both behind one interface.

const TYPES = {
  uint8: Uint8Array, int8: Int8Array, int32: Int32Array, int64: BigInt64Array, float32: Float32Array, bool: Uint8Array,
};
const here = (path) => new URL(path, import.meta.url).href;

/** What of the machine decides which runtimes can run: threads need an isolated page, both need https or localhost. */
export async function abilities() {
  return {
    isolated: globalThis.crossOriginIsolated === true,
    secure: globalThis.isSecureContext === true,
    cores: navigator.hardwareConcurrency || 1,
    webgpu: await gpuName(),
  };
}

/** Name of the GPU that WebGPU offers; null where there is none. */
async function gpuName() {
  try {
    const adapter = await navigator.gpu?.requestAdapter();
    if (!adapter) return null;
    const { vendor = "", architecture = "", description = "" } = adapter.info || {};
    return [vendor, architecture, description].filter(Boolean).join(" ") || "a GPU without a name";
  } catch {
    return null;
  }
}

export const elements = (shape) => shape.reduce((product, size) => product * size, 1);

/** The values that bytes hold, as a typed array. */
export function typed(dtype, bytes) {
  const Type = TYPES[dtype];
  if (!Type) throw new Error(`values of type ${dtype} cannot be read in a browser`);
  const start = bytes.byteOffset || 0;
  const aligned = start % Type.BYTES_PER_ELEMENT === 0 ? bytes : bytes.slice();
  return new Type(aligned.buffer || aligned, aligned.byteOffset || 0, bytes.byteLength / Type.BYTES_PER_ELEMENT);
}

/**
 * Open an artifact.
 *
 * @param spec {format: "onnx" | "litert", device: "wasm" | "webgpu", threads, url, input, outputs}; input and outputs
 *   as in the manifest: {name, shape, dtype}.
 * @returns {run, close}: run(pixels) -> [{name, dtype, shape, data}], in the manifest's order.
 */
export async function openModel(spec) {
  if (spec.device === "webgpu" && !(await gpuName())) throw new Error("this browser offers no WebGPU adapter");
  if (spec.threads > 1 && !globalThis.crossOriginIsolated) {
    throw new Error("this page has no threads: it is neither https nor localhost, or lacks the isolation headers");
  }
  const open = { onnx: openOnnx, litert: openLitert }[spec.format];
  if (!open) throw new Error(`no runtime for ${spec.format} in a browser`);
  return open(spec);
}

// The number of threads is fixed once a runtime is loaded: the query makes a copy of the module for each number.
async function openOnnx({ device, threads, url, input, outputs }) {
  const ort = await import(`./ort/ort.${device}.min.mjs?threads=${threads}`);
  ort.env.wasm.numThreads = threads;
  ort.env.wasm.wasmPaths = here("./ort/");
  ort.env.logLevel = "error";
  const session = await ort.InferenceSession.create(url, { executionProviders: [device] });
  const names = outputs.map((output) => output.name);
  const run = async (pixels) => {
    const feeds = { [input.name]: new ort.Tensor(input.dtype, pixels, input.shape) };
    const found = await session.run(feeds, names);
    return names.map((name) => {
      const { dims, data, type } = found[name];
      return { name, dtype: type, shape: [...dims], data };
    });
  };
  return { run, close: () => session.release() };
}

async function openLitert({ device, threads, url, input, outputs }) {
  const litert = await import(`./litert/index.js?threads=${threads}`);
  if (!loaded.has(litert)) loaded.set(litert, litert.loadLiteRt(here("./litert/wasm/"), { threads: threads > 1 }));
  await loaded.get(litert);
  const model = await litert.loadAndCompile(url, { accelerator: device, cpuOptions: { numThreads: threads } });
  if (device === "webgpu" && !model.isFullyAccelerated) {
    model.delete();
    throw new Error("WebGPU does not take all operators of this artifact, and LiteRT.js would run it on the CPU");
  }
  const [{ name: inputName }] = model.getInputDetails();
  const place = (name) => Number(name.split("_").pop()); // "output_0", "output_1" ...; the file's own order differs
  const run = async (pixels) => {
    const images = new litert.Tensor(pixels, input.shape);
    const found = await model.run({ [inputName]: images });
    images.delete();
    const results = [];
    for (const [index, name] of Object.keys(found).sort((a, b) => place(a) - place(b)).entries()) {
      const values = await found[name].data();
      const { name: known, shape, dtype } = outputs[index];
      results.push({ name: known, dtype, shape, data: dtype === "int64" ? BigInt64Array.from(values, BigInt) : values.slice() });
      found[name].delete();
    }
    return results;
  };
  return { run, close: () => model.delete() };
}

const loaded = new Map(); // LiteRT.js module -> promise of its wasm
