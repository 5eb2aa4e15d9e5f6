/**
 * Stand-ins of FCM, of APNs and of an agent's webhook on this machine: real HTTPS and HTTP/2, which answer whatever a test says and keep what they were
 * asked. Their certificate carries the providers' names, so that clients check TLS as they do outside.
 */
import { generateKeyPairSync } from "node:crypto";
import { once } from "node:events";
import { readFileSync } from "node:fs";
import { mkdtemp, rm, writeFile } from "node:fs/promises";
import type { IncomingHttpHeaders } from "node:http";
import { createSecureServer, type ServerHttp2Session, type ServerHttp2Stream } from "node:http2";
import { createServer } from "node:https";
import type { AddressInfo, Socket } from "node:net";
import { tmpdir } from "node:os";
import path from "node:path";

const certificates = path.join(import.meta.dirname, "certificates");
const cert = readFileSync(path.join(certificates, "providers.pem"), "utf8");
const key = readFileSync(path.join(certificates, "providers-key.pem"), "utf8");

/** Trust this to believe the stand-ins. */
export const providersCa = cert;

export interface Asked {
  readonly path: string;
  readonly headers: IncomingHttpHeaders;
  readonly body: string;
}

/** `silent`: none; `reset`: the connection or stream breaks; `goaway`: APNs hangs up after it. */
export interface FakeAnswer {
  readonly status?: number;
  readonly headers?: Readonly<Record<string, string>>;
  readonly body?: unknown;
  readonly how?: "silent" | "reset" | "goaway";
}

export interface FakeProvider {
  readonly address: { readonly host: string; readonly port: number };
  /** What it was asked, tokens of OAuth aside. */
  readonly asked: readonly Asked[];
  /** How many connections there were. */
  connections(): number;
  /** For the next calls, in order; then 200 again. */
  answerNext(...answers: readonly FakeAnswer[]): void;
  /** For every call that has no answer of its own. */
  answerAlways(answer: FakeAnswer | null): void;
  close(): Promise<void>;
}

class Script {
  readonly asked: Asked[] = [];
  readonly next: FakeAnswer[] = [];
  always: FakeAnswer | null = null;
  connections = 0;

  take(asked: Asked): FakeAnswer {
    this.asked.push(asked);
    return this.next.shift() ?? this.always ?? {};
  }

  provider(address: { readonly host: string; readonly port: number }, close: () => Promise<void>): FakeProvider {
    return {
      address,
      asked: this.asked,
      connections: () => this.connections,
      answerNext: (...answers) => void this.next.push(...answers),
      answerAlways: (answer) => {
        this.always = answer;
      },
      close,
    };
  }
}

/** FCM and Google's token server, or a webhook: whatever is asked by HTTP/1.1. `usual`: what a success says. */
async function openHttps(usual: unknown): Promise<FakeProvider> {
  const script = new Script();
  const sockets = new Set<Socket>();
  const server = createServer({ cert, key }, async (request, response) => {
    let body = "";
    for await (const chunk of request) body += String(chunk);
    const json = { "content-type": "application/json" };
    if (request.url === "/token") {
      response
        .writeHead(200, json)
        .end(JSON.stringify({ access_token: "fake", expires_in: 3_600, token_type: "Bearer" }));
      return;
    }
    const answer = script.take({ path: request.url ?? "", headers: request.headers, body });
    if (answer.how === "silent") return;
    if (answer.how === "reset") request.socket.destroy();
    else response.writeHead(answer.status ?? 200, { ...json, ...answer.headers }).end(textOf(answer.body ?? usual));
  });
  server.on("connection", (socket) => {
    script.connections += 1;
    sockets.add(socket.on("error", () => undefined));
  });
  server.listen(0, "127.0.0.1");
  await once(server, "listening");
  const { port } = server.address() as AddressInfo;
  return script.provider({ host: "127.0.0.1", port }, async () => {
    for (const socket of sockets) socket.destroy();
    await new Promise((resolve) => server.close(resolve));
  });
}

function textOf(body: unknown): string {
  return typeof body === "string" ? body : JSON.stringify(body);
}

export function openFakeFcm(): Promise<FakeProvider> {
  return openHttps({ name: "projects/sealpost-test/messages/1" });
}

export function openFakeWebhook(): Promise<FakeProvider> {
  return openHttps({});
}

export async function openFakeApns(): Promise<FakeProvider> {
  const script = new Script();
  const sessions = new Set<ServerHttp2Session>();
  const server = createSecureServer({ cert, key });
  server.on("session", (session) => {
    script.connections += 1;
    sessions.add(session.on("error", () => undefined));
  });
  server.on("stream", (stream, headers) => void serve(script, stream as ServerHttp2Stream, headers));
  server.listen(0, "127.0.0.1");
  await once(server, "listening");
  const { port } = server.address() as AddressInfo;
  return script.provider({ host: "127.0.0.1", port }, async () => {
    for (const session of sessions) session.destroy();
    await new Promise((resolve) => server.close(resolve));
  });
}

async function serve(script: Script, stream: ServerHttp2Stream, headers: IncomingHttpHeaders): Promise<void> {
  stream.on("error", () => undefined);
  let body = "";
  for await (const chunk of stream) body += String(chunk);
  const answer = script.take({ path: String(headers[":path"]), headers, body });
  if (answer.how === "silent") return;
  if (answer.how === "reset") {
    stream.close(2);
    return;
  }
  stream.respond({ ":status": answer.status ?? 200, ...answer.headers });
  stream.end(answer.body === undefined ? "" : textOf(answer.body));
  if (answer.how === "goaway") stream.session?.goaway();
}

function fakeServiceAccount(): string {
  const { privateKey } = generateKeyPairSync("rsa", { modulusLength: 2048 });
  return JSON.stringify({
    type: "service_account",
    project_id: "sealpost-test",
    private_key: privateKey.export({ format: "pem", type: "pkcs8" }),
    client_email: "push@sealpost-test.example.com",
  });
}

/** A provider's key that Apple does not know. */
export function fakeApnsKey(): string {
  const { privateKey } = generateKeyPairSync("ec", { namedCurve: "P-256" });
  return String(privateKey.export({ format: "pem", type: "pkcs8" }));
}

/** A service account that Google does not know, in a file; `remove` it. */
export async function fakeServiceAccountFile() {
  const folder = await mkdtemp(path.join(tmpdir(), "sealpost-fcm-"));
  const file = path.join(folder, "account.json");
  await writeFile(file, fakeServiceAccount());
  return { file, remove: () => rm(folder, { recursive: true, force: true }) };
}

/** The service's environment for these stand-ins, with the files it names; `remove` them. */
export async function providersEnvironment(fcm: FakeProvider, apns: FakeProvider) {
  const folder = await mkdtemp(path.join(tmpdir(), "sealpost-push-"));
  const fileOf = async (name: string, text: string) => {
    const file = path.join(folder, name);
    await writeFile(file, text);
    return file;
  };
  const apnsAddress = `${apns.address.host}:${apns.address.port}`;
  return {
    env: {
      SEALPOST_FCM_SERVICE_ACCOUNT_FILE: await fileOf("account.json", fakeServiceAccount()),
      SEALPOST_FCM_ADDRESS: `${fcm.address.host}:${fcm.address.port}`,
      SEALPOST_APNS_KEY_FILE: await fileOf("key.p8", fakeApnsKey()),
      SEALPOST_APNS_KEY_ID: "KEY1234567",
      SEALPOST_APNS_TEAM_ID: "TEAM123456",
      SEALPOST_APNS_TOPIC: "com.example.agent",
      SEALPOST_APNS_ADDRESS: apnsAddress,
      SEALPOST_APNS_SANDBOX_ADDRESS: apnsAddress,
      SEALPOST_PUSH_CA_FILE: path.join(certificates, "providers.pem"),
      SEALPOST_WEBHOOKS: "any",
    },
    remove: () => rm(folder, { recursive: true, force: true }),
  };
}
