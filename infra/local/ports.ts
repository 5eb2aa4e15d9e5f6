/**
 * Free ports on the loopback address.
 *
 * Promises: ports below every system's ephemeral range. Inside that range a client that reconnects to a killed server
 * could be given the server's own port as its source port, and the restart would find it taken.
 */
import { createServer } from "node:net";

/** Linux hands out ephemeral ports from 32768 up, macOS from 49152 up. */
const lowestPort = 20_000;
const highestPort = 32_000;

export async function isFree(port: number): Promise<boolean> {
  const server = createServer();
  return new Promise((resolve) => {
    server.once("error", () => resolve(false));
    server.listen({ port, host: "127.0.0.1", exclusive: true }, () => server.close(() => resolve(true)));
  });
}

/** A free port that is not in `taken`; it is added there. */
export async function freePort(taken: Set<number>): Promise<number> {
  for (;;) {
    const port = lowestPort + Math.floor(Math.random() * (highestPort - lowestPort));
    if (taken.has(port) || !(await isFree(port))) continue;
    taken.add(port);
    return port;
  }
}
