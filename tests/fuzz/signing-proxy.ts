/**
 * Stands between a fuzzer and the service: it gives every request the proof that its operation asks for (a signature, an owner's statement, the operators' token), puts
 * what means something in place of some of what was made up, and counts.
 *
 * A few requests go as they came, without a proof.
 */
import { once } from "node:events";
import { Agent, createServer, type IncomingMessage, request, type Server, type ServerResponse } from "node:http";
import type { AddressInfo } from "node:net";
import { buffer } from "node:stream/consumers";
import type { Chance } from "../../sdk/chance.ts";
import { signed } from "../signing.ts";
import { type Meant, meant } from "./knowing.ts";
import { OWNER_SUBJECT, type Stage } from "./stage.ts";
import type { Tally } from "./tally.ts";

/** One operation of an OpenAPI document. */
export interface Operation {
  readonly name: string;
  readonly method: string;
  readonly path: RegExp;
  readonly parameters: readonly string[];
  readonly scheme: string;
}

/** An answer that never ends is cut off after this. */
const OPEN_MS = 100;
const ANSWER_MS_MAX = 30_000;
const UNPROVEN_SHARE = 0.03;
const DELEGATION_SHARE = 0.1;
const HOP_BY_HOP = new Set([
  "host",
  "connection",
  "keep-alive",
  "transfer-encoding",
  "content-length",
  "upgrade",
  "te",
  "expect",
]);

interface SigningProxy {
  readonly url: string;
  close(): Promise<void>;
}

interface ProxyOptions {
  readonly stage: Stage;
  readonly targetUrl: string;
  /** As the target serves it. */
  readonly document: OpenApiDocument;
  readonly tally: Tally;
  readonly chance: Chance;
}

export interface OpenApiDocument {
  readonly paths: Readonly<
    Record<string, Readonly<Record<string, { readonly security?: readonly Readonly<Record<string, unknown>>[] }>>>
  >;
}

/** `GET /messaging/receive`, and so on. */
export function operationsOf({ paths }: OpenApiDocument): readonly Operation[] {
  return Object.entries(paths).flatMap(([path, methods]) =>
    Object.entries(methods).map(([method, { security }]) => ({
      name: `${method.toUpperCase()} ${path}`,
      method: method.toUpperCase(),
      path: new RegExp(`^${path.replaceAll(".", "\\.").replaceAll(/\{[^}]+\}/g, "([^/]*)")}$`),
      parameters: Array.from(path.matchAll(/\{([^}]+)\}/g), ([, name]) => name ?? ""),
      scheme: Object.keys(security?.[0] ?? {})[0] ?? "none",
    })),
  );
}

export async function openSigningProxy(options: ProxyOptions): Promise<SigningProxy> {
  const operations = operationsOf(options.document);
  const agent = new Agent({ keepAlive: true, maxSockets: 16 });
  const server: Server = createServer((asked, answer) => {
    void forward(options, operations, agent, asked, answer).catch((error: unknown) => {
      options.tally.finding(
        `not answered: ${asked.method} ${asked.url}: ${error instanceof Error ? error.message : error}`,
      );
      answer.destroy();
    });
  });
  server.listen(0, "127.0.0.1");
  await once(server, "listening");
  return {
    url: `http://127.0.0.1:${(server.address() as AddressInfo).port}`,
    close: async () => {
      agent.destroy();
      server.closeAllConnections();
      server.close();
      await once(server, "close");
    },
  };
}

async function forward(
  options: ProxyOptions,
  operations: readonly Operation[],
  agent: Agent,
  asked: IncomingMessage,
  answer: ServerResponse,
): Promise<void> {
  const { tally, stage, chance } = options;
  const method = asked.method ?? "GET";
  const [path = "/", ...query] = (asked.url ?? "/").split("?");
  const operation = operations.find((one) => one.method === method && one.path.test(path));
  const given = await buffer(asked);
  const known = operation === undefined ? null : meant(operation, path, given, stage, chance);
  const body = known?.body ?? given;
  const target = [known?.path ?? path, ...query].join("?");
  const plain = headersOf(asked);
  // A chain that does not hold would be the answer to everything.
  if (!chance.happens(DELEGATION_SHARE)) delete plain["sealpost-delegation"];
  const proven =
    known === null || chance.happens(UNPROVEN_SHARE) ? plain : await proof(options, operation, known, target, plain);
  const url = new URL(options.targetUrl);
  const sent = request({
    host: url.hostname,
    port: url.port,
    method,
    path: target,
    agent,
    headers: { ...proven, ...(body.length > 0 && { "content-length": body.length }) },
    signal: AbortSignal.timeout(ANSWER_MS_MAX),
  });
  sent.end(body);
  tally.put(operation?.name ?? "no operation");
  const [response] = (await once(sent, "response")) as [IncomingMessage];
  response.on("error", () => undefined);
  const isOpen = String(response.headers["content-type"]).startsWith("text/event-stream");
  if (isOpen) await openMs();
  const text = isOpen ? Buffer.alloc(0) : await buffer(response);
  if (isOpen) response.destroy();
  tally.answered(`${response.statusCode}${codeOf(response, text)}`);
  if (operation !== undefined) tally.answeredWith(operation.name, response.statusCode ?? 0);
  lookAt(response, text, `${method} ${target} ${body.toString("utf8").slice(0, 500)}`, tally);
  answer.writeHead(response.statusCode ?? 500, { "content-type": response.headers["content-type"] ?? "text/plain" });
  answer.end(text);
}

/** No answer of 500 or above, and every refusal says what is wrong and what to do. */
function lookAt({ statusCode = 0, headers }: IncomingMessage, text: Buffer, what: string, tally: Tally): void {
  if (statusCode >= 500) tally.finding(`${statusCode}: ${what}: ${text.toString("utf8").slice(0, 300)}`);
  if (statusCode < 400 || text.length === 0) return;
  const isProblem = String(headers["content-type"]).startsWith("application/problem+json");
  if (!isProblem) tally.finding(`${statusCode} is no problem document: ${what}`);
  else if (!isClear(text))
    tally.finding(`${statusCode} does not say what to do: ${what}: ${text.toString("utf8").slice(0, 300)}`);
}

function codeOf({ headers }: IncomingMessage, text: Buffer): string {
  if (!String(headers["content-type"]).startsWith("application/problem+json") || text.length === 0) return "";
  return ` ${(JSON.parse(text.toString("utf8")) as { readonly code?: unknown }).code}`;
}

function isClear(text: Buffer): boolean {
  const { code, detail, fix } = JSON.parse(text.toString("utf8")) as Record<string, unknown>;
  return [code, detail, fix].every((member) => typeof member === "string" && member.length > 0);
}

async function proof(
  { stage, targetUrl }: ProxyOptions,
  operation: Operation | undefined,
  { signer, keyid, body }: Meant,
  target: string,
  headers: Record<string, string>,
): Promise<Record<string, string>> {
  if (operation?.scheme === "operatorToken") return { ...headers, authorization: `Bearer ${stage.opsToken}` };
  if (operation?.scheme === "ownerToken") {
    return { ...headers, authorization: `Bearer ${await stage.owner.manage(OWNER_SUBJECT)}` };
  }
  if (operation?.scheme !== "httpMessageSignature") return headers;
  try {
    const call = { method: operation.method, url: targetUrl + target, headers, ...(body.length > 0 && { body }) };
    return (await signed(signer, call, keyid === undefined ? {} : { keyid })).headers;
  } catch {
    // Headers that no client can sign: the service shall see them all the same.
    return headers;
  }
}

function headersOf({ headers }: IncomingMessage): Record<string, string> {
  const all = Object.entries(headers).filter(([name]) => !HOP_BY_HOP.has(name));
  const plain = Object.fromEntries(
    all.map(([name, value]) => [name, Array.isArray(value) ? value.join(", ") : (value ?? "")]),
  );
  // A wait that was asked for would be spent by the fuzzer, too: it is none.
  if (plain["prefer"] !== undefined) plain["prefer"] = plain["prefer"].replaceAll(/(?<=wait\s*=\s*"?)\d+/gi, "0");
  return plain;
}

function openMs(): Promise<readonly []> {
  return new Promise((resolve) => setTimeout(resolve, OPEN_MS, []));
}
