/**
 * Something to stand between a client and a server, so that one client can lose it while the others go on.
 */
import { once } from "node:events";
import { type AddressInfo, connect, createServer, type Socket } from "node:net";

export interface ServerProxy {
  readonly url: string;
  /** Cuts every connection and takes no new one. */
  cut(): void;
  /** Keeps connections open and takes new ones, and passes nothing on. */
  freeze(): void;
  /** Works again. */
  heal(): void;
  close(): void;
}

/** A proxy for the server of a URL. */
export async function startProxy(url: string): Promise<ServerProxy> {
  const target = new URL(url);
  const sockets = new Set<Socket>();
  let state: "works" | "cut" | "frozen" = "works";
  const cutAll = () => {
    for (const socket of sockets) socket.destroy();
    sockets.clear();
  };
  const server = createServer((client) => {
    if (state === "cut") {
      client.destroy();
      return;
    }
    const upstream = connect(Number(target.port), target.hostname);
    const pairs: [Socket, Socket][] = [
      [client, upstream],
      [upstream, client],
    ];
    for (const [from, to] of pairs) {
      sockets.add(from);
      from.on("error", () => undefined);
      from.on("data", (bytes) => {
        if (state === "works") to.write(bytes);
      });
      from.on("close", () => {
        sockets.delete(from);
        to.destroy();
      });
    }
  });
  server.listen(0, "127.0.0.1");
  await once(server, "listening");
  const front = new URL(url);
  front.hostname = "127.0.0.1";
  front.port = String((server.address() as AddressInfo).port);
  return {
    url: front.href,
    cut: () => {
      state = "cut";
      cutAll();
    },
    freeze: () => {
      state = "frozen";
    },
    heal: () => {
      if (state === "frozen") cutAll();
      state = "works";
    },
    close: () => {
      cutAll();
      server.close();
    },
  };
}
