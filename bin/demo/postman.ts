/**
 * Whoever carries the bytes between an agent and the service: here a postman who can mix up what he carries.
 *
 * He passes on HTTP requests and the stream as they are (their signatures cover his address, which the service is told as the Host), and, when
 * asked to, turns round the order of the envelopes that travel in one batch. He can read none of them, and nobody has to trust him.
 */
import { createServer, request as httpRequest, type IncomingMessage, type Server } from "node:http";
import type { AddressInfo } from "node:net";
import { WebSocket, WebSocketServer } from "ws";
import { decodeClientFrames, encodeClientFrames } from "../../protocol/stream-frames.ts";

export interface Postman {
  /** What the agent is told to be the service. */
  readonly url: string;
  /** Turns round the batches that pass from now on, or no longer. */
  mixUp(on: boolean): void;
  /** Batches he turned round. */
  mixedUp(): number;
  close(): Promise<void>;
}

export async function hirePostman(serviceUrl: string): Promise<Postman> {
  const service = new URL(serviceUrl);
  let mixing = false;
  let mixed = 0;
  const server = createServer((incoming, answer) => {
    const forwarded = httpRequest(service, {
      path: incoming.url,
      method: incoming.method,
      headers: incoming.headers,
    });
    forwarded.on("response", (response) => {
      answer.writeHead(response.statusCode ?? 502, response.headers);
      response.pipe(answer);
    });
    forwarded.on("error", () => answer.destroy());
    incoming.pipe(forwarded);
  });
  const carry = (data: Buffer): Uint8Array => {
    if (!mixing) return data;
    const frames = decodeClientFrames(data);
    const [frame] = frames;
    if (frames.length !== 1 || frame?.type !== "send" || frame.envelopes.length < 2) return data;
    mixed += 1;
    return encodeClientFrames([{ ...frame, envelopes: frame.envelopes.toReversed() }]);
  };
  carryStreams(server, service, carry);
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  return {
    url: `http://127.0.0.1:${(server.address() as AddressInfo).port}`,
    mixUp: (on) => {
      mixing = on;
    },
    mixedUp: () => mixed,
    close: async () => {
      server.closeAllConnections();
      await new Promise<void>((resolve) => server.close(() => resolve()));
    },
  };
}

function carryStreams(server: Server, service: URL, carry: (data: Buffer) => Uint8Array): void {
  const sockets = new WebSocketServer({ noServer: true, perMessageDeflate: false });
  server.on("upgrade", (request: IncomingMessage, socket, head) => {
    const upstream = new WebSocket(new URL(request.url ?? "/", service.href.replace(/^http/, "ws")), {
      headers: endToEnd(request),
      perMessageDeflate: false,
    });
    upstream.on("error", () => socket.destroy());
    upstream.on("open", () =>
      sockets.handleUpgrade(request, socket, head, (client) => {
        client.on("message", (data: Buffer) => upstream.send(carry(data)));
        upstream.on("message", (data: Buffer) => client.send(data));
        client.on("close", () => upstream.terminate());
        upstream.on("close", () => client.terminate());
        client.on("error", () => upstream.terminate());
      }),
    );
  });
}

/** Headers for the service; those of this hop are made anew. */
function endToEnd(request: IncomingMessage): Record<string, string> {
  const hop = /^(connection|upgrade|sec-websocket-.*)$/;
  const headers = Object.entries(request.headers).filter(([name]) => !hop.test(name));
  return Object.fromEntries(headers.map(([name, value]) => [name, String(value)]));
}
