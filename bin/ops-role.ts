/**
 * Health and metrics of a process that has no API of its own.
 */
import { createServer } from "node:http";
import type { AddressInfo } from "node:net";
import type { Config } from "./config.ts";
import type { Metrics } from "./metrics.ts";
import type { Role } from "./role.ts";

export async function startOps(
  config: Config,
  metrics: Metrics,
  roles: readonly Role[],
  stopping: AbortSignal,
): Promise<Role & { readonly url: string }> {
  const server = createServer(async (request, response) => {
    const [status, type, body] = await answer(request.url ?? "/", metrics, roles, stopping);
    response.writeHead(status, { "content-type": type, "cache-control": "no-store" });
    response.end(body);
  });
  await new Promise<void>((resolve, reject) => {
    server.once("error", reject);
    server.listen(config.opsPort, config.httpHost, resolve);
  });
  const { port } = server.address() as AddressInfo;
  return {
    url: `http://${config.httpHost}:${port}`,
    stop: async () => {
      server.closeAllConnections();
      await new Promise<void>((resolve) => server.close(() => resolve()));
    },
  };
}

async function answer(
  path: string,
  metrics: Metrics,
  roles: readonly Role[],
  stopping: AbortSignal,
): Promise<readonly [number, string, string]> {
  const json = "application/json";
  if (path === "/metrics") return [200, metrics.registry.contentType, await metrics.text()];
  if (path === "/healthz") return [200, json, JSON.stringify({ status: "ok" })];
  if (path === "/readyz") {
    const missing = roles.flatMap((role) => role.missing?.() ?? []).concat(stopping.aborted ? ["serving"] : []);
    return [missing.length === 0 ? 200 : 503, json, JSON.stringify({ ready: missing.length === 0, missing })];
  }
  return [404, json, JSON.stringify({ paths: ["/healthz", "/readyz", "/metrics"] })];
}
