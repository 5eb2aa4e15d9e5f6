/**
 * The API with everything of its agents in memory, for attacks: who is attacked, who attacks, what each of them has, and how it is told whether anything
 * of it was changed or shown.
 *
 * Every example (`examples.ts`) is a call of the caller's that is taken; an attack is the same call with one thing wrong.
 */
import { connect } from "node:net";
import { text as textFrom } from "node:stream/consumers";
import { expect } from "vitest";
import type { HttpDeps } from "../../api/http/route.ts";
import type { Identity } from "../../protocol/identity.ts";
import { addAgent, type InMemoryService, inMemoryService } from "../in-memory-service.ts";
import { newIdentity, type SigningOptions, sendSigned, signed } from "../signing.ts";
import { type Belongings, belongings } from "./belongings.ts";
import { custodyDoor } from "./custody-door.ts";
import { ownershipForTests } from "./owner-tokens.ts";

/** An agent, and with which key it signs. */
export interface Signer {
  readonly identity: Identity;
  readonly keyid: string;
}

export type Port = "agents" | "operators";

/** A call, and by whom. */
export interface Ask {
  readonly method: string;
  readonly path: string;
  readonly as: Signer | { readonly bearer: string } | null;
  readonly headers?: Readonly<Record<string, string>>;
  readonly body?: unknown;
}

/** An answer, read to its end. */
export interface Told {
  readonly status: number;
  readonly headers: Headers;
  readonly text: string;
  // biome-ignore lint/suspicious/noExplicitAny: attacks look into answers of every shape.
  readonly json: any;
}

export class World {
  readonly service: InMemoryService;
  /** Makes the calls of the examples. */
  readonly caller: Signer;
  /** Whose things nobody else may see or change; the caller writes to it. */
  readonly victim: Signer;
  /** Writes to the victim; of the caller it knows nothing. */
  readonly third: Signer;
  /** Agents whose keys the service holds: the caller of their calls, and whom it attacks. */
  readonly held: Signer;
  readonly heldVictim: Signer;
  readonly its: Belongings;
  /** How many refusals were looked at: an attack that looked at nothing has shown nothing. */
  judged = 0;

  constructor(service: InMemoryService) {
    const { ports } = service;
    const owner = (identity: Identity): Signer => ({ identity, keyid: identity.agentId });
    [this.victim, this.caller, this.third] = [owner(service.alice), owner(service.bob), owner(newIdentity())];
    addAgent(ports, this.third.identity);
    this.held = heldAgent(service);
    this.heldVictim = heldAgent(service);
    this.service = service;
    this.its = belongings(this);
  }

  urlOf(port: Port, path: string): string {
    return (port === "agents" ? this.service.http : this.service.ops).url + path;
  }

  /** What chains of delegation must name. */
  audienceOf(port: Port): string {
    return new URL(this.urlOf(port, "/")).host;
  }

  /** As the example says, or signed as `options` want it. */
  async ask(port: Port, ask: Ask, options: SigningOptions = {}): Promise<Told> {
    return told(await this.send(port, ask, options));
  }

  async send(
    port: Port,
    { method, path, as, headers = {}, body }: Ask,
    options: SigningOptions = {},
  ): Promise<Response> {
    const call = { method, url: this.urlOf(port, path), headers, ...(body === undefined ? {} : { body }) };
    if (as !== null && "identity" in as) {
      return sendSigned(await signed(as.identity, call, { keyid: as.keyid, ...options }));
    }
    return fetch(call.url, {
      method,
      headers: {
        ...headers,
        ...(as === null ? {} : { authorization: `Bearer ${as.bearer}` }),
        ...(body === undefined ? {} : { "content-type": "application/json" }),
      },
      ...(body === undefined ? {} : { body: textOf(body) }),
    });
  }

  /** What a GET with a body is answered, which no client library sends: the bytes of the answer. */
  async rawGet(port: Port, ask: Ask, body: string): Promise<string> {
    const url = new URL(this.urlOf(port, ask.path));
    const call = { method: ask.method, url: url.href };
    const headers =
      ask.as !== null && "identity" in ask.as
        ? (await signed(ask.as.identity, call, { keyid: ask.as.keyid })).headers
        : ask.as === null
          ? {}
          : { authorization: `Bearer ${ask.as.bearer}` };
    const lines = Object.entries({ ...headers, host: url.host, connection: "close", "content-length": body.length });
    const head = lines.map(([name, value]) => `${name}: ${value}`).join("\r\n");
    const socket = connect(Number(url.port), url.hostname);
    socket.write(`${ask.method} ${url.pathname}${url.search} HTTP/1.1\r\n${head}\r\n\r\n${body}`);
    return textFrom(socket);
  }

  /** Whatever the attempt is answered, it is one of these problems, told without anything of others, and nothing has changed. */
  async expectRefused(attempt: () => Promise<Told>, codes: readonly string[], because = ""): Promise<Told> {
    const before = this.state();
    const answer = await attempt();
    expect(answer.json?.code ?? `${answer.status} ${answer.text}`, because).toSatisfy(
      (code: string) => codes.includes(code),
      `${because}: ${answer.status} ${answer.text.slice(0, 300)} is none of ${codes.join(", ")}`,
    );
    expect(answer.headers.get("content-type"), because).toBe("application/problem+json");
    expect(answer.status, because).toBe(answer.json.status);
    expect(answer.json.fix, because).toBeTruthy();
    this.expectNothingOfOthersIn(answer.text);
    expect(this.state(), because).toEqual(before);
    this.judged += 1;
    return answer;
  }

  /** The things by which somebody else's data is known do not stand in the text. */
  expectNothingOfOthersIn(text: string, mayStand: readonly string[] = []): void {
    const needles = this.its.secrets.filter((secret) => !mayStand.includes(secret));
    expect(needles.length).toBeGreaterThan(10);
    expect(needles.filter((needle) => text.includes(needle))).toEqual([]);
  }

  /** Everything that is stored and appended, as plain values. */
  state(): Readonly<Record<string, unknown>> {
    const { counts: _, bugs: __, came: ___, streaming: ____, away: _____, ...ports } = this.service.ports;
    const stored = Object.entries(ports).filter(
      ([name, value]) => !DOORS.includes(name) && typeof value === "object" && value !== null,
    );
    return Object.fromEntries(stored.map(([name, value]) => [name, plain(value)]));
  }
}

/** Members of the ports that are made of functions and settings. */
const DOORS: readonly string[] = [
  "custody",
  "readiness",
  "nonces",
  "limits",
  "digests",
  "room",
  "items",
  "receipts",
  "push",
];

export async function openWorld(overrides: Partial<HttpDeps> = {}): Promise<World> {
  const service: InMemoryService = await inMemoryService({
    custody: custodyDoor(() => service),
    ownership: ownershipForTests(),
    ...overrides,
  });
  return new World(service);
}

export async function told(response: Response): Promise<Told> {
  const text = await response.text();
  const isJson = /[/+]json/.test(response.headers.get("content-type") ?? "");
  return { status: response.status, headers: response.headers, text, json: isJson ? JSON.parse(text) : undefined };
}

function heldAgent({ ports }: InMemoryService): Signer {
  const [access, { agentId, signing }] = [newIdentity(), newIdentity()];
  const accessKey = access.signing.publicKey;
  const identityKey = signing.publicKey;
  ports.agents.set(agentId, { agentId, identityKey, custody: "server", accessKey, status: "active", createdAt: 1 });
  return { identity: access, keyid: agentId };
}

export function textOf(body: unknown): string {
  return typeof body === "string" ? body : JSON.stringify(body);
}

/** Without functions and views, so that two of them can be compared. */
function plain(value: unknown): unknown {
  if (value instanceof Uint8Array) return Buffer.from(value).toString("hex");
  if (value instanceof Map) return [...value].map(plain);
  if (value instanceof Set) return [...value];
  if (Array.isArray(value)) return value.map(plain);
  if (typeof value !== "object" || value === null) return value;
  const members = Object.entries(value).filter(([, member]) => typeof member !== "function");
  return Object.fromEntries(members.map(([name, member]) => [name, plain(member)]));
}
