/**
 * Makes tokens of delegation for tests, with node:crypto alone: neither the library the service checks them with nor the SDK's code. Everything may be wrong on purpose.
 */
import { createHash, randomUUID } from "node:crypto";
import type { Identity } from "../protocol/identity.ts";
import { nodePrimitives } from "../protocol/primitives/node.ts";

type Json = Readonly<Record<string, unknown>>;

export const HEADER: Json = { alg: "EdDSA", typ: "sealpost-delegation+jwt" };

/** `undefined` takes a claim out. */
export type Changes = Readonly<Record<string, unknown>>;

export interface TokenOptions {
  readonly header?: Json;
  /** Default: the issuer's. */
  readonly signedBy?: Identity;
  /** Of the signing input. */
  readonly signature?: (input: Buffer) => Uint8Array;
}

/** Good for an hour, to send and claim, to anybody. */
export function claimsOf(issuer: Identity, delegate: Identity, audience: string, changes: Changes = {}): Json {
  const now = Math.floor(Date.now() / 1000);
  return {
    ...{ iss: issuer.agentId, sub: delegate.agentId, aud: audience, iat: now, exp: now + 3_600, jti: randomUUID() },
    ...{ cnf: { jkt: delegate.agentId }, scope: "send claim", to: "*", ...changes },
  };
}

export function tokenOf(issuer: Identity, claims: Json, options: TokenOptions = {}): string {
  const { header = HEADER, signedBy = issuer } = options;
  const input = `${encoded(header)}.${encoded(claims)}`;
  const sign = options.signature ?? ((data) => nodePrimitives.ed25519Sign(signedBy.signing, data));
  return `${input}.${Buffer.from(sign(Buffer.from(input))).toString("base64url")}`;
}

export function digestOf(token: string): string {
  return createHash("sha256").update(token).digest("base64url");
}

/** From the first of these to the last, each link as good as the one before; `changes` by link. */
export function chainOf(agents: readonly Identity[], audience: string, changes: readonly Changes[] = []): string {
  const tokens: string[] = [];
  const iat = Math.floor(Date.now() / 1000);
  for (const [index, issuer] of agents.slice(0, -1).entries()) {
    const before = tokens.at(-1);
    const claims = claimsOf(issuer, agents[index + 1] as Identity, audience, {
      ...{ iat, exp: iat + 3_600 },
      ...(before === undefined ? {} : { prf: digestOf(before) }),
      ...changes[index],
    });
    tokens.push(tokenOf(issuer, claims));
  }
  return tokens.join("~");
}

function encoded(json: Json): string {
  return Buffer.from(JSON.stringify(json)).toString("base64url");
}
