/**
 * Containers as one of the ways to a server, where a container engine answers.
 *
 * Promises: nothing here needs an engine until it is asked for one; a missing engine is a reason in words, not an error.
 */
import { access } from "node:fs/promises";
import { homedir } from "node:os";
import { join } from "node:path";
import type { Env } from "./ladder.ts";

/** Why no container engine can be used; null when one answers. */
export async function whyNoEngine(env: Env): Promise<string | null> {
  const host = env["DOCKER_HOST"];
  const sockets = ["/var/run/docker.sock", join(homedir(), ".docker", "run", "docker.sock")];
  if (env["XDG_RUNTIME_DIR"] !== undefined) sockets.push(join(env["XDG_RUNTIME_DIR"], "docker.sock"));
  const isThere = await Promise.all(
    sockets.map((path) =>
      access(path).then(
        () => true,
        () => false,
      ),
    ),
  );
  // Asking for a socket first spares machines without an engine the second that loading the client takes.
  if ((host === undefined || host === "") && !isThere.includes(true)) {
    return `no container engine answers: DOCKER_HOST is not set and there is no socket at ${sockets.join(" or ")}.`;
  }
  return "not built yet";
}
