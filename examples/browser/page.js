// Submits an image, follows its job by server-sent events, and reads the output. The page has no API key.
const GATEWAY = "http://127.0.0.1:8000";
const STATES = ["queued", "running", "succeeded", "failed", "canceled", "expired"];

/** Submits through this page's own backend. The URLs in its answer have a token that reads this job alone. */
async function submitThroughBackend(file) {
  const { urls } = await post("/submit", file);
  return { events: GATEWAY + urls.events, output: GATEWAY + urls.output };
}

/** Submits to the gateway. This needs a service without keys, with this page's origin in JITNEY_CORS_ORIGINS. */
async function submitDirectly(file) {
  const { urls } = await post(`${GATEWAY}/v1/jobs?model=digits`, file);
  return { events: GATEWAY + urls.events, output: `${GATEWAY}${urls.self}/output` };
}

async function post(url, file) {
  const response = await fetch(url, { method: "POST", body: file, headers: { "Content-Type": file.type } });
  const answer = await response.json();
  if (!response.ok) throw new Error(answer.detail);
  return answer;
}

/** Calls `onState` with each state of a job; resolves with the job once it is final. */
function follow(url, onState) {
  return new Promise((resolve, reject) => {
    const stream = new EventSource(url);
    for (const state of STATES) {
      stream.addEventListener(state, ({ data }) => {
        onState(state);
        if (["queued", "running"].includes(state)) return;
        stream.close();
        resolve(JSON.parse(data));
      });
    }
    stream.onerror = () => {
      // After an interruption the browser connects again by itself. After an HTTP error it does not.
      if (stream.readyState === EventSource.CLOSED) reject(new Error("the token has expired, or the job is gone"));
    };
  });
}

const [states, answer] = ["states", "answer"].map((id) => document.getElementById(id));

async function classify(file) {
  states.replaceChildren();
  answer.textContent = "…";
  const way = document.querySelector("[name=way]:checked").value;
  const urls = await (way === "direct" ? submitDirectly(file) : submitThroughBackend(file));
  const job = await follow(urls.events, (state) => {
    states.append(Object.assign(document.createElement("li"), { textContent: state }));
  });
  if (job.status !== "succeeded") throw new Error(job.error.message);
  const output = await (await fetch(urls.output)).json();
  answer.textContent = output.predictions[0].label;
}

document.querySelector("[type=file]").addEventListener("change", ({ target }) => {
  classify(target.files[0]).catch((error) => {
    answer.textContent = `error: ${error.message}`;
  });
});
