// The page of a benchmark: asks its server for jobs, does them, and posts the results.

import { abilities, openModel, typed } from "./runtimes.js";

const models = new Map(); // subject -> {model, pixels to time it on}
const show = (id, text) => (document.getElementById(id).textContent = text);

const jobs = {
  tell({ step, share }) {
    show("step", `${step} …`);
    document.getElementById("share").value = share;
  },
  async open({ subject, ...spec }, [pixels]) {
    const model = await openModel({ ...spec, url: new URL(spec.url, location.href).href });
    models.set(subject, { model, pixels: typed(spec.input.dtype, pixels), dtype: spec.input.dtype });
  },
  async run({ subject }, [pixels]) {
    const { model, dtype } = models.get(subject);
    const found = await model.run(typed(dtype, pixels));
    return { outputs: found.map(({ data, ...described }) => described), arrays: found.map(({ data }) => bytesOf(data)) };
  },
  async time({ subject, calls }) {
    const { model, pixels } = models.get(subject);
    const times = [];
    for (let call = 0; call < calls; call++) {
      const start = performance.now();
      await model.run(pixels);
      times.push(performance.now() - start);
    }
    return { times };
  },
  wait: () => null,
};

const bytesOf = (data) => new Uint8Array(data.buffer, data.byteOffset, data.byteLength);

/** A message: a line of JSON with the sizes of the arrays, and their bytes. */
function packed(header, arrays = []) {
  const sizes = arrays.map((array) => array.byteLength);
  return new Blob([JSON.stringify({ ...header, sizes }), "\n", ...arrays]);
}

function unpacked(buffer) {
  const bytes = new Uint8Array(buffer);
  const end = bytes.indexOf(10);
  const { sizes, ...header } = JSON.parse(new TextDecoder().decode(bytes.subarray(0, end)));
  let start = end + 1;
  const arrays = sizes.map((size) => bytes.slice(start, (start += size)));
  return [header, arrays];
}

async function post(path, body) {
  const response = await fetch(path, { method: "POST", body });
  if (!response.ok) throw new Error(`the server answers ${response.status}: ${await response.text()}`);
  return unpacked(await response.arrayBuffer());
}

async function aboutThis() {
  const model = await navigator.userAgentData?.getHighEntropyValues(["model"]).catch(() => null);
  return { agent: navigator.userAgent, model: model?.model || "", ...(await abilities()) };
}

async function main() {
  const about = await aboutThis();
  const threads = about.isolated ? `threads on ${about.cores} cores` : "no threads: the page is neither https nor localhost";
  show("about", `${threads}; ${about.webgpu ? `WebGPU on ${about.webgpu}` : "no WebGPU"}`);
  navigator.wakeLock?.request("screen").catch(() => null);
  const [{ device }] = await post("hello", packed(about));
  let closing = true;
  addEventListener("pagehide", () => closing && navigator.sendBeacon(`closed?device=${device}`));
  let answer = packed({});
  for (;;) {
    const [{ do: name, ...job }, arrays] = await post(`next?device=${device}`, answer);
    if (name === "end") {
      closing = false;
      await fetch(`closed?device=${device}`, { method: "POST" });
      finished(job.table);
      return;
    }
    try {
      const { arrays: results = [], ...result } = (await jobs[name](job, arrays)) || {};
      answer = packed({ ...result, answers: name !== "wait" }, results);
    } catch (error) {
      answer = packed({ error: `${error?.message || error}`, answers: true });
    }
  }
}

function finished(rows) {
  show("step", "done; you may close this page");
  document.getElementById("share").value = 1;
  const table = document.getElementById("table");
  for (const cells of rows) {
    const row = table.insertRow();
    for (const cell of cells) row.insertCell().textContent = cell;
  }
  document.body.dataset.state = "done";
}

main().catch((error) => {
  show("step", `stopped: ${error.message}; open the address anew`);
  document.body.dataset.state = "stopped";
});
