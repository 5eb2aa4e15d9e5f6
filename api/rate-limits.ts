/**
 * How often who may do what, and how clients hear of it: the headers `RateLimit-Policy` and `RateLimit` (draft-ietf-httpapi-ratelimit-headers-10), and the
 * problem `rate-limited`, which names the policy.
 */
import type { ServerResponse } from "node:http";
import { serializeList } from "structured-headers";
import type { Limit } from "../store/limits.ts";
import type { RatesDoor, Standing } from "../store/rates.ts";
import { ApiRefusal } from "./problem.ts";

/** Their names stand in headers and problems: a contract with clients (docs/limits.md). */
export interface RateLimits {
  /** Calls of an agent, or of an owner, over HTTP. */
  readonly calls: Limit;
  /** Messages of a sender. */
  readonly messages: Limit;
  /** Messages of a sender to one recipient. */
  readonly pair: Limit;
  /** Of a client's address: calls that do not prove who calls. */
  readonly unproven: Limit;
  /** Of a client's address. */
  readonly registrations: Limit;
}

export interface RateDeps {
  readonly rates: RatesDoor;
  readonly rateLimits: RateLimits;
}

/** What each limit is of; for sentences. */
const SUBJECTS: Readonly<Record<keyof RateLimits, string>> = {
  calls: "calls of one caller",
  messages: "messages of one sender",
  pair: "messages of one sender to one recipient",
  unproven: "calls without a valid signature from one address",
  registrations: "points for registrations from one address",
};

/** `more than 6000 calls of one caller in 60 seconds`. */
export function tooManyOf(policy: keyof RateLimits, { points, seconds }: Limit): string {
  return `more than ${points} ${SUBJECTS[policy]} in ${seconds} seconds`;
}

export function rateLimited(policy: keyof RateLimits, limit: Limit, { resetMs }: Standing): ApiRefusal {
  return new ApiRefusal("rate-limited", { detail: tooManyOf(policy, limit), policy, retryAfterMs: resetMs });
}

/** @throws ApiRefusal `rate-limited` */
export async function takeRate(
  { rates, rateLimits }: RateDeps,
  policy: keyof RateLimits,
  key: string,
  points = 1,
): Promise<void> {
  const limit = rateLimits[policy];
  const standing = await rates.take(limit, key, points);
  if (!standing.allowed) throw rateLimited(policy, limit, standing);
}

/**
 * Takes nothing, and asks nobody: for what costs a point only when it fails.
 *
 * @throws ApiRefusal `rate-limited`
 */
export function requireRate({ rates, rateLimits }: RateDeps, policy: keyof RateLimits, key: string, points = 1): void {
  const limit = rateLimits[policy];
  const standing = rates.standing(limit, key, points);
  if (!standing.allowed) throw rateLimited(policy, limit, standing);
}

/** The limits that one call met, for the headers of its answer. */
export class MetLimits {
  readonly #deps: RateDeps;
  readonly #met = new Map<keyof RateLimits, string>();

  constructor(deps: RateDeps) {
    this.#deps = deps;
  }

  /** From now on the headers tell how this key stands when they are written. */
  add(policy: keyof RateLimits, key: string): void {
    this.#met.set(policy, key);
  }

  /** As the standings are now: after everything the call did. */
  writeOn(response: ServerResponse): void {
    if (this.#met.size === 0 || response.headersSent) return;
    const { rates, rateLimits } = this.#deps;
    const met = [...this.#met].map(([policy, key]) => {
      const limit = rateLimits[policy];
      return { limit, ...rates.standing(limit, key) };
    });
    const policies = met.map(({ limit }) => item(limit.name, { q: limit.points, w: limit.seconds }));
    const standings = met.map(({ limit, remaining, resetMs }) =>
      item(limit.name, { r: remaining, t: Math.ceil(resetMs / 1000) }),
    );
    response.setHeader("ratelimit-policy", serializeList(policies));
    response.setHeader("ratelimit", serializeList(standings));
  }
}

function item(name: string, parameters: Readonly<Record<string, number>>): [string, Map<string, number>] {
  return [name, new Map(Object.entries(parameters))];
}
