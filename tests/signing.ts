/**
 * Signs HTTP requests in tests, with another library (`http-message-signatures`) than the service verifies with and the SDK signs
 * with: what both sides agree on here is RFC 9421, and not a habit of one implementation.
 */
import { createHash, randomUUID } from "node:crypto";
import { httpbis } from "http-message-signatures";
import type { Identity } from "../protocol/identity.ts";
import { createIdentity } from "../protocol/identity.ts";
import { nodePrimitives, nodeRandom } from "../protocol/primitives/node.ts";

export interface Call {
  readonly method: string;
  readonly url: string;
  readonly headers?: Readonly<Record<string, string>>;
  /** What is sent; objects as JSON. */
  readonly body?: unknown;
}

/** Everything a test may get wrong on purpose. */
export interface SigningOptions {
  /** Default: as the API wants it. */
  readonly components?: readonly string[];
  /** Default: created, expires, nonce, keyid, alg. */
  readonly parameters?: readonly string[];
  /** Seconds since the epoch. */
  readonly created?: number;
  readonly expires?: number;
  readonly nonce?: string;
  readonly keyid?: string;
  readonly alg?: string;
  readonly tag?: string;
  /** Default: the digest of the body. */
  readonly contentDigest?: string;
  /** Default: the identity's own signature. */
  readonly sign?: (data: Uint8Array) => Uint8Array;
}

export interface SignedCall {
  readonly method: string;
  readonly url: string;
  readonly headers: Record<string, string>;
  readonly body: Buffer | undefined;
}

export function newIdentity(): Identity {
  return createIdentity(nodePrimitives, nodeRandom);
}

export function contentDigestOf(body: Uint8Array): string {
  return `sha-256=:${createHash("sha256").update(body).digest("base64")}:`;
}

/** The call with the headers that sign it. Strings and bytes are sent as they are. */
export async function signed(identity: Identity, call: Call, options: SigningOptions = {}): Promise<SignedCall> {
  const body = bytesOf(call.body);
  const headers: Record<string, string> = { ...call.headers };
  if (body !== undefined) {
    headers["content-type"] ??= "application/json";
    headers["content-digest"] = options.contentDigest ?? contentDigestOf(body);
  }
  const created = options.created ?? Math.floor(Date.now() / 1000);
  const sign = options.sign ?? ((data: Uint8Array) => nodePrimitives.ed25519Sign(identity.signing, data));
  const covered = [
    ...["@method", "@authority", "@path", "@query", ...(body === undefined ? [] : ["content-digest"])],
    ...("sealpost-delegation" in headers ? ["sealpost-delegation"] : []),
  ];
  const message = await httpbis.signMessage(
    {
      key: {
        id: options.keyid ?? identity.agentId,
        alg: options.alg ?? "ed25519",
        sign: async (data) => Buffer.from(sign(data)),
      },
      fields: [...(options.components ?? covered)],
      params: [
        ...(options.parameters ?? ["created", "expires", "nonce", "keyid", "alg"]),
        ...(options.tag === undefined ? [] : ["tag"]),
      ],
      paramValues: {
        created: new Date(created * 1000),
        expires: new Date((options.expires ?? created + 60) * 1000),
        nonce: options.nonce ?? randomUUID(),
        ...(options.tag === undefined ? {} : { tag: options.tag }),
      },
    },
    { method: call.method, url: call.url, headers },
  );
  return { method: call.method, url: call.url, headers: textHeaders(message.headers), body };
}

/** Sends what was signed. */
export function sendSigned({ method, url, headers, body }: SignedCall): Promise<Response> {
  return fetch(url, { method, headers, ...(body === undefined ? {} : { body }) });
}

/** Signs and sends. */
export async function call(identity: Identity, wanted: Call, options: SigningOptions = {}): Promise<Response> {
  return sendSigned(await signed(identity, wanted, options));
}

function bytesOf(body: unknown): Buffer | undefined {
  if (body === undefined) return undefined;
  if (typeof body === "string") return Buffer.from(body);
  if (body instanceof Uint8Array) return Buffer.from(body);
  return Buffer.from(JSON.stringify(body));
}

function textHeaders(headers: Record<string, string | string[]>): Record<string, string> {
  return Object.fromEntries(
    Object.entries(headers).map(([name, value]) => [name, Array.isArray(value) ? value.join(", ") : value]),
  );
}
