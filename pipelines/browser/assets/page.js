// The page: a conversation, what the worker writes, and how fast it does.
const $ = (id) => document.getElementById(id);
const worker = new Worker("/worker.js", { type: "module" });
// a worker that computes reads no messages: it looks at this number after each token
const stopped = new Int32Array(new SharedArrayBuffer(4));
let messages = [];
let answer = null; // the element that is being written
let text = "";

function say(line, isBad = false) {
  $("status").textContent = line;
  $("status").classList.toggle("bad", isBad);
}

function setWriting(isWriting) {
  for (const id of ["send", "prompt", "fresh"]) $(id).disabled = isWriting;
  $("stop").disabled = !isWriting;
  if (!isWriting) $("prompt").focus();
}

function add(role, content) {
  const item = document.createElement("li");
  item.className = role;
  item.textContent = content;
  $("chat").append(item);
  item.scrollIntoView({ block: "end" });
  return item;
}

function finish(figures) {
  messages.push({ role: "assistant", content: text });
  const line = document.createElement("span");
  line.className = "figures";
  const speed = figures.tokensPerSecond === null ? "" : `${figures.tokensPerSecond.toFixed(1)} tokens/s, `;
  line.textContent = `${speed}${figures.numTokens} tokens, the first after ${figures.firstSeconds.toFixed(2)} s`;
  answer.textContent = text || "(no text)";
  answer.append(line);
  setWriting(false);
  say("Ready");
}

const heard = {
  loading: ({ loaded, total }) => {
    $("loaded").value = total ? loaded / total : 0;
    say(`Loading ${(loaded / 1e6).toFixed(0)} of ${(total / 1e6).toFixed(0)} MB`);
  },
  opening: () => say("Opening the graph"),
  ready: ({ hasTemplate, numThreads, device, reason }) => {
    $("loaded").hidden = true;
    setWriting(false);
    const note = hasTemplate ? "" : "; it has no chat template: it goes on with your text";
    const threads = `WebAssembly with ${numThreads} thread${numThreads === 1 ? "" : "s"}`;
    const instead = reason ? `; not WebGPU: ${reason}` : "";
    say(`Ready, ${device === "webgpu" ? "WebGPU" : threads}${instead}${note}`);
  },
  piece: (message) => {
    text += message.text;
    answer.textContent = text;
    say(message.tokensPerSecond === null ? "Writing" : `Writing, ${message.tokensPerSecond.toFixed(1)} tokens/s`);
  },
  done: finish,
  failed: ({ line }) => {
    say(line, true);
    if (answer !== null && !text) {
      answer.remove();
      messages.pop();
    }
    $("loaded").hidden = true;
    if (answer !== null) setWriting(false);
  },
};
worker.onmessage = ({ data }) => heard[data.kind](data);
worker.onerror = (event) => say(`The worker did not start: ${event.message ?? "no reason was given"}`, true);

$("form").addEventListener("submit", (event) => {
  event.preventDefault();
  const content = $("prompt").value.trim();
  if (!content || $("send").disabled) return;
  $("prompt").value = "";
  messages.push({ role: "user", content });
  add("user", content);
  answer = add("assistant", "");
  text = "";
  setWriting(true);
  Atomics.store(stopped, 0, 0);
  say("Reading");
  worker.postMessage({ kind: "write", messages, longest: Number($("longest").value) || 256 });
});
$("prompt").addEventListener("keydown", (event) => {
  if (event.key === "Enter" && !event.shiftKey && !event.isComposing) {
    event.preventDefault();
    $("form").requestSubmit();
  }
});
$("stop").addEventListener("click", () => Atomics.store(stopped, 0, 1));
$("fresh").addEventListener("click", () => {
  messages = [];
  $("chat").replaceChildren();
  say("Ready");
  $("prompt").focus();
});

const about = await (await fetch("/about.json")).json();
$("name").textContent = about.name;
$("about").textContent = `Version ${about.version}, form ${about.form}, ${(about.bytes / 1e6).toFixed(0)} MB`;
document.title = `${about.name}: Attar`;
// ?device=wasm or ?device=webgpu tries that alone
const device = new URLSearchParams(location.search).get("device");
worker.postMessage({ kind: "load", files: about.files, precision: about.precision, device, stopped });
