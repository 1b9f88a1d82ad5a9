// The model, in a thread of its own: transformers.js on onnxruntime's WebAssembly, every file from this server.
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

async function load({ files, stopped: shared }) {
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
  // fp32 is the plain name model.onnx here, whatever its weights are held as
  model = await AutoModelForCausalLM.from_pretrained("model", { dtype: "fp32", device: "wasm", progress_callback });
  tell("ready", { hasTemplate: Boolean(tokenizer.chat_template), numThreads: env.backends.onnx.wasm.numThreads });
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
