/**
 * A TCP proxy that breaks on demand: late, silent, deaf, reset, or without the answers to one kind of Kafka request.
 *
 * Kafka's clients follow the addresses in its metadata, so a broker behind it must advertise the proxy's port (`kafkaAdvertisedPorts`
 * of the local stack).
 */
import { createServer, connect as dial, type Server, type Socket } from "node:net";

/** Kafka's number of a request (https://kafka.apache.org/protocol#protocol_api_keys). */
export const produceApi = 0;

export interface FaultProxy {
  readonly port: number;
  /** Requests seen so far, by Kafka's api number. */
  readonly requests: ReadonlyMap<number, number>;
  /** Answers swallowed so far. */
  readonly dropped: number;
  /** `silent` holds back both directions, `deaf` lets requests through and swallows answers. Connections stay open. */
  mode: "open" | "silent" | "deaf";
  /** Every chunk waits this long, in order. ms. */
  delayMs: number;
  /** The next `count` answers to requests of this api are swallowed, whole and alone: the request has happened. */
  dropAnswers(api: number, count: number): void;
  /** Called with what a client sends before it is passed on. */
  onRequest: ((bytes: Buffer) => void) | null;
  /** Ends every open connection with a reset. */
  reset(): void;
  close(): Promise<void>;
}

export interface ProxyOptions {
  readonly port?: number;
  readonly targetPort: number;
  /** Kafka's framing; without it bytes are passed on as they come. */
  readonly framed?: boolean;
}

export async function openProxy({ port = 0, targetPort, framed = false }: ProxyOptions): Promise<FaultProxy> {
  const sockets = new Set<Socket>();
  const requests = new Map<number, number>();
  const toDrop = new Map<number, number>();
  let dropped = 0;

  const server: Server = createServer((client) => {
    const target = dial(targetPort, "127.0.0.1");
    /** Correlation ids whose answers shall not arrive. */
    const doomed = new Set<number>();
    const pass = (from: Socket, to: Socket, allow: (frame: Buffer) => boolean) => {
      let line = Promise.resolve();
      const forward = (frame: Buffer) => {
        if (allow(frame)) line = line.then(() => late(() => to.write(frame)));
      };
      from.on("data", framed ? frames(forward) : forward);
      from.on("close", () => to.destroy());
      from.on("error", () => to.destroy());
      sockets.add(from);
      from.on("close", () => sockets.delete(from));
    };
    pass(client, target, (frame) => {
      if (framed) {
        const api = frame.readInt16BE(4);
        requests.set(api, (requests.get(api) ?? 0) + 1);
        const left = toDrop.get(api) ?? 0;
        if (left > 0) {
          toDrop.set(api, left - 1);
          doomed.add(frame.readInt32BE(8));
        }
      }
      proxy.onRequest?.(frame);
      return proxy.mode !== "silent";
    });
    pass(target, client, (frame) => {
      const swallowed = proxy.mode !== "open" || (framed && doomed.delete(frame.readInt32BE(4)));
      if (swallowed) dropped++;
      return !swallowed;
    });
  });

  async function late(write: () => void): Promise<void> {
    if (proxy.delayMs > 0) await new Promise((resolve) => setTimeout(resolve, proxy.delayMs));
    write();
  }

  await new Promise<void>((resolve, reject) => {
    server.once("error", reject);
    server.listen(port, "127.0.0.1", resolve);
  });
  const proxy: FaultProxy = {
    port: (server.address() as { port: number }).port,
    requests,
    get dropped() {
      return dropped;
    },
    mode: "open",
    delayMs: 0,
    onRequest: null,
    dropAnswers: (api, count) => void toDrop.set(api, count),
    reset: () => {
      for (const socket of sockets) socket.resetAndDestroy();
    },
    close: async () => {
      proxy.reset();
      await new Promise((resolve) => server.close(resolve));
    },
  };
  return proxy;
}

/** Cuts a stream into Kafka's frames: four bytes of length, and that many bytes. */
function frames(use: (frame: Buffer) => void): (chunk: Buffer) => void {
  let rest = Buffer.alloc(0);
  return (chunk) => {
    rest = Buffer.concat([rest, chunk]);
    while (rest.length >= 4 && rest.length >= 4 + rest.readInt32BE(0)) {
      const end = 4 + rest.readInt32BE(0);
      use(rest.subarray(0, end));
      rest = rest.subarray(end);
    }
  };
}
