// Shows the OpenAPI document in Swagger UI. Asks for an API key if the service needs one; the key is stored nowhere.
"use strict";

const find = (id) => document.getElementById(id);

const show = async () => {
  const key = find("key").value;
  const response = await fetch("openapi.json", { headers: key ? { Authorization: `Bearer ${key}` } : {} });
  const answer = await response.json();
  find("key-form").hidden = response.status !== 401;
  find("message").textContent = response.ok ? "" : answer.detail;
  if (!response.ok) return;
  const ui = SwaggerUIBundle({
    spec: answer,
    dom_id: "#api",
    defaultModelsExpandDepth: -1, // each operation shows its own
    syntaxHighlight: false, // its colors have too little contrast
    validatorUrl: null, // it would be another host
    onComplete: () => key && ui.preauthorizeApiKey("bearer", key),
  });
};

// What Swagger UI leaves out for keyboards and screen readers: selector → attributes, or what gives them.
const ATTRIBUTES = {
  ".information-container": { role: "region", ariaLabel: "About this API" },
  ".scheme-container": { role: "region", ariaLabel: "Server and authorization" },
  "h3.opblock-tag, .modal-ux h3": { ariaLevel: 2 },
  ".opblock h4, .opblock h5, .modal-ux h4": { ariaLevel: 3 },
  ".modal-ux": { role: "dialog", ariaModal: true, ariaLabel: "Authorization" },
  ".close-modal": { ariaLabel: "Close" },
  ".modal-btn": (button) => ({ ariaLabel: button.textContent }),
  ".opblock [role=region]": (region) => ({ ariaLabel: `Responses of ${region.closest(".opblock").id}` }),
  ".parameters select, .parameters input": (field) => ({ ariaLabel: field.closest("[data-param-name]")?.dataset.paramName }),
  "#servers": { ariaLabel: "Server" },
  ".content-type": { ariaLabel: "Media type" },
  "textarea": { ariaLabel: "Request body" },
  "pre": { tabIndex: 0 },
};

const complete = () => {
  for (const [selector, attributes] of Object.entries(ATTRIBUTES)) {
    for (const element of document.querySelectorAll(`#api :is(${selector})`)) {
      Object.assign(element, typeof attributes === "function" ? attributes(element) : attributes);
    }
  }
};
new MutationObserver(complete).observe(find("api"), { childList: true, subtree: true });

find("key-form").addEventListener("submit", (event) => { event.preventDefault(); show(); });
show();
