// The model, in a thread of its own: transformers.js on WebGPU or onnxruntime's WebAssembly, every file from this server.
import {
  AutoModelForCausalLM, AutoTokenizer, InterruptableStoppingCriteria, TextStreamer, env,
} from "/lib/transformers.min.js";

env.allowRemoteModels = false;
env.allowLocalModels = true;
env.localModelPath = "/";
env.useBrowserCache = false; // the server is this machine
env.useWasmCache = false;
const base = `${self.location.origin}/lib/ort-wasm-simd-threaded.asyncify`;
env.backends.onnx.wasm.wasmPaths = { mjs: `${base}.mjs`, wasm: `${base}.wasm` };
env.backends.onnx.wasm.numThreads = Math.min(8, navigator.hardwareConcurrency || 1);

const stopping = new InterruptableStoppingCriteria();
let tokenizer = null;
let model = null;
let stopped = null; // the page writes 1 into it
const tell = (kind, content = {}) => self.postMessage({ kind, ...content });

// Where to try: a real GPU, with floats of 16 bits where the graph has them, and WebAssembly. `device`: that and nothing else.
async function devicesFor(precision, device) {
  if (device) return [device];
  const adapter = await navigator.gpu?.requestAdapter().catch(() => null);
  const isReal = adapter && !adapter.info?.isFallbackAdapter;
  const hasTypes = precision !== "float16" || adapter?.features.has("shader-f16");
  return isReal && hasTypes ? ["webgpu", "wasm"] : ["wasm"];
}

async function open(device, progress_callback) {
  // fp32 is the plain name model.onnx here, whatever its weights are held as
  const opened = await AutoModelForCausalLM.from_pretrained("model", { dtype: "fp32", device, progress_callback });
  // that a GPU has no kernel for a node, or too little memory, shows at the first token
  if (device === "webgpu") await opened.generate({ ...tokenizer("1"), max_new_tokens: 1, do_sample: false });
  return opened;
}

async function load({ files, stopped: shared, precision, device: asked }) {
  stopped = shared;
  const total = Object.values(files).reduce((sum, size) => sum + size, 0);
  const loaded = {};
  const progress_callback = (event) => {
    if (event.status !== "progress") return;
    loaded[event.file] = event.loaded;
    const sum = Object.values(loaded).reduce((a, b) => a + b, 0);
    if (sum >= total * 0.999) tell("opening");
    else tell("loading", { loaded: sum, total });
  };
  tokenizer = await AutoTokenizer.from_pretrained("model", {});
  const devices = await devicesFor(precision, asked);
  let reason = "";
  for (const device of devices) {
    try {
      model = await open(device, progress_callback);
      const numThreads = env.backends.onnx.wasm.numThreads;
      tell("ready", { hasTemplate: Boolean(tokenizer.chat_template), numThreads, device, reason });
      return;
    } catch (error) {
      if (device === devices.at(-1)) throw error;
      reason = String(error?.message ?? error).split("\n")[0];
    }
  }
}

function promptOf(messages) {
  if (!tokenizer.chat_template) return tokenizer(messages.map((message) => message.content).join("\n"));
  return tokenizer.apply_chat_template(messages, { add_generation_prompt: true, return_dict: true });
}

async function write({ messages, longest }) {
  stopping.reset();
  const inputs = promptOf(messages);
  const room = (model.config.max_position_embeddings ?? Infinity) - inputs.input_ids.dims[1];
  if (room < 1) throw new Error("the conversation is longer than the model's context; start a new chat");
  const began = performance.now();
  let first = null;
  let last = began;
  let numTokens = 0;
  const speed = () => (numTokens > 1 ? (1000 * (numTokens - 1)) / (last - first) : null);
  const streamer = new TextStreamer(tokenizer, {
    skip_prompt: true,
    skip_special_tokens: true,
    callback_function: (text) => tell("piece", { text, tokensPerSecond: speed() }),
    token_callback_function: () => {
      last = performance.now();
      first ??= last;
      numTokens += 1;
      if (Atomics.load(stopped, 0)) stopping.interrupt();
    },
  });
  await model.generate({
    ...inputs, max_new_tokens: Math.min(longest, room), do_sample: false, streamer, stopping_criteria: stopping,
  });
  tell("done", { numTokens, tokensPerSecond: speed(), firstSeconds: ((first ?? last) - began) / 1000 });
}

const wanted = { load, write };
self.onmessage = async ({ data }) => {
  try {
    await wanted[data.kind](data);
  } catch (error) {
    const line = String(error?.message ?? error).split("\n")[0];
    tell("failed", { line: data.kind === "load" ? `The model did not load: ${line}` : `Nothing was written: ${line}` });
  }
};
