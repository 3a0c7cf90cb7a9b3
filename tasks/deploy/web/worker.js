// Keeps the page for use without a network, and adds the headers that threads need, which static hosts rarely send.

const cache = () => caches.open(self.registration.scope);

self.addEventListener("install", () => self.skipWaiting());
self.addEventListener("activate", (event) => event.waitUntil(self.clients.claim()));
self.addEventListener("fetch", (event) => {
  const { method, url } = event.request;
  if (method === "GET" && url.startsWith(self.registration.scope)) event.respondWith(answer(event.request));
});

/** From the network where there is one; else as it was last. */
async function answer(request) {
  try {
    const response = await fetch(request);
    if (response.ok) await (await cache()).put(request, response.clone());
    return isolated(response);
  } catch (error) {
    const kept = await (await cache()).match(request);
    if (kept) return isolated(kept);
    throw error;
  }
}

function isolated(response) {
  const headers = new Headers(response.headers);
  headers.set("Cross-Origin-Opener-Policy", "same-origin");
  headers.set("Cross-Origin-Embedder-Policy", "require-corp");
  const { status, statusText } = response;
  return new Response(response.body, { status, statusText, headers });
}
