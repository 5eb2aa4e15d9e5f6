/**
 * The public keys of those whose word about owners is believed: given by the operator, or fetched from the issuer.
 *
 * Promise: nothing is fetched but from the addresses the operator gave, or that the issuer's own configuration names; over https, or from this
 * machine; without redirections, bounded in time and size, and remembered. What an issuer answers wrongly is `Unavailable`: the token was not judged.
 */
import {
  createLocalJWKSet,
  createRemoteJWKSet,
  customFetch,
  errors,
  type JSONWebKeySet,
  type JWTVerifyGetKey,
} from "jose";
import { Unavailable } from "../../protocol/refusal.ts";

/** Answers the key a token says it was signed by. Throws what jose throws when there is none; `Unavailable`. */
export type IssuerKeys = JWTVerifyGetKey;

/** An issuer that is there answers in a fraction of that; the agent that registers waits meanwhile. */
const FETCH_MS_MAX = 3_000;

/** Large providers publish some 10 KB. */
const ANSWER_BYTES_MAX = 256 * 1024;

/** So long an issuer's withdrawn key is believed, at most. Shorter, and every registration would wait for the issuer. */
const KEYS_AGE_MS_MAX = 10 * 60_000;

/** An unknown key id has the keys fetched anew, but not more often: anybody can make one up. */
const COOLDOWN_MS = 30_000;

/** As the operator gave them. */
export function givenKeys(jwks: { readonly keys: readonly object[] }): IssuerKeys {
  return createLocalJWKSet(jwks as JSONWebKeySet);
}

/** From this address. */
export function keysFrom(url: URL): IssuerKeys {
  const keys = createRemoteJWKSet(url, {
    timeoutDuration: FETCH_MS_MAX,
    cooldownDuration: COOLDOWN_MS,
    cacheMaxAge: KEYS_AGE_MS_MAX,
    [customFetch]: (address, options) => boundedFetch(address, options.signal),
  });
  return async (header, token) => {
    try {
      return await keys(header, token);
    } catch (error) {
      // The token's fault. Everything else is that of the issuer, or of the way to it.
      if (error instanceof errors.JWKSNoMatchingKey || error instanceof errors.JWKSMultipleMatchingKeys) throw error;
      if (error instanceof errors.JOSENotSupported) throw error;
      throw new Unavailable("issuer", error);
    }
  };
}

/** From the address that the issuer's own configuration names (OpenID Connect Discovery §4). */
export function discoveredKeys(issuer: string, now: () => number = Date.now): IssuerKeys {
  let found: { readonly keys: Promise<IssuerKeys>; readonly until: number } | null = null;
  return async (header, token) => {
    const nowMs = now();
    if (found === null || found.until <= nowMs) {
      const keys = discover(issuer).then(keysFrom);
      const mine = { keys, until: nowMs + KEYS_AGE_MS_MAX };
      found = mine;
      keys.catch(() => {
        // Soon again, but not with every call.
        if (found === mine) found = { keys, until: now() + FETCH_MS_MAX };
      });
    }
    return (await found.keys)(header, token);
  };
}

/** May keys be fetched from there? Over https, or from this machine. */
export function isFetchable(url: string): boolean {
  if (!URL.canParse(url)) return false;
  const { protocol, hostname, username, password } = new URL(url);
  if (username !== "" || password !== "") return false;
  return protocol === "https:" || (protocol === "http:" && ["127.0.0.1", "[::1]", "localhost"].includes(hostname));
}

async function discover(issuer: string): Promise<URL> {
  try {
    const response = await boundedFetch(
      `${issuer.replace(/\/$/, "")}/.well-known/openid-configuration`,
      AbortSignal.timeout(FETCH_MS_MAX),
    );
    const answer: unknown = response.ok ? await response.json() : null;
    const { issuer: named, jwks_uri: uri } = (answer ?? {}) as { issuer?: unknown; jwks_uri?: unknown };
    if (named !== issuer) throw new Error("the issuer's configuration is not there, or names another issuer");
    if (typeof uri !== "string" || !isFetchable(uri)) {
      throw new Error("the issuer's configuration has no jwks_uri with https");
    }
    return new URL(uri);
  } catch (error) {
    throw new Unavailable("issuer", error);
  }
}

async function boundedFetch(url: string, signal: AbortSignal): Promise<Response> {
  const response = await fetch(url, { signal, redirect: "error", headers: { accept: "application/json" } });
  const chunks: Uint8Array[] = [];
  let size = 0;
  for await (const chunk of response.body ?? []) {
    size += chunk.length;
    if (size > ANSWER_BYTES_MAX) throw new Error("the issuer's answer is too large");
    chunks.push(chunk);
  }
  return new Response(Buffer.concat(chunks, size), { status: response.status });
}
