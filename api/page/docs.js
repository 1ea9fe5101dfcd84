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
    deepLinking: true,
    docExpansion: "none",
    validatorUrl: null, // it would be another host
    onComplete: () => key && ui.preauthorizeApiKey("bearer", key),
  });
};

find("key-form").addEventListener("submit", (event) => { event.preventDefault(); show(); });
show();
