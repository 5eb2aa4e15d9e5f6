/** For those who run the service: open, without a signature. Keep them inside the network where that matters. */
import { ApiRefusal } from "../../problem.ts";
import { liveAnswer, readinessAnswer } from "../problem-schemas.ts";
import { type HttpDeps, route } from "../route.ts";

/** A probe that hangs says the same as one that fails; probes ask every few seconds. */
const CHECK_MS_MAX = 2_000;

export const live = route({
  method: "GET",
  path: "/healthz",
  operationId: "live",
  summary: "Is the process alive?",
  description: "Says only that the event loop turns: servers that are away are no reason to restart it.",
  signedBy: "nobody",
  request: {},
  answers: { 200: { description: "Yes", schema: liveAnswer } },
  refuses: [],
  handle: () => ({ status: 200, json: { live: true } }),
});

export const ready = route({
  method: "GET",
  path: "/readyz",
  operationId: "ready",
  summary: "Can the process take calls?",
  signedBy: "nobody",
  request: {},
  answers: {
    200: { description: "Yes", schema: readinessAnswer },
    503: { description: "No; missing names what is away", schema: readinessAnswer },
  },
  refuses: [],
  handle: async (deps) => {
    const missing = await missingNow(deps);
    return { status: missing.length === 0 ? 200 : 503, json: { ready: missing.length === 0, missing } };
  },
});

export const metrics = route({
  method: "GET",
  path: "/metrics",
  operationId: "metrics",
  summary: "Metrics in the Prometheus text format",
  signedBy: "nobody",
  request: {},
  answers: { 200: { description: "Metrics", mediaType: "text/plain" } },
  refuses: [],
  handle: async (deps) => ({
    status: 200,
    text: await deps.metrics(),
    headers: { "content-type": "text/plain; version=0.0.4; charset=utf-8" },
  }),
});

/** Upgrades never get here: the gateway takes them from the listener. */
export const stream = route({
  method: "GET",
  path: "/messaging/stream",
  operationId: "stream",
  summary: "Open the message stream (WebSocket)",
  description: "A signed GET that upgrades to WebSocket; its frames: docs/stream.md.",
  signedBy: "nobody",
  request: { headers: { Upgrade: "websocket" } },
  answers: { 101: { description: "The stream is open" } },
  refuses: ["signature-missing", "signature-invalid", "signature-expired", "signature-replayed", "upgrade-required"],
  handle: () => {
    throw new ApiRefusal("upgrade-required", { field: "Upgrade" });
  },
});

async function missingNow(deps: HttpDeps): Promise<string[]> {
  const checks = Object.entries(deps.readiness);
  const answers = await Promise.all(checks.map(([, check]) => isThere(check)));
  return checks.filter((_, index) => answers[index] !== true).map(([name]) => name);
}

async function isThere(check: () => boolean | Promise<boolean>): Promise<boolean> {
  const { promise: tooLate, resolve } = Promise.withResolvers<boolean>();
  const timer = setTimeout(resolve, CHECK_MS_MAX, false);
  try {
    return await Promise.race([check(), tooLate]);
  } catch {
    // Whatever the reason, it is not there.
    return false;
  } finally {
    clearTimeout(timer);
  }
}
