/**
 * Limits for whoever has not proven who it is: nobody else can be held to account for those calls but the address they come from.
 *
 * Promise: an address that sends too many calls without a valid signature is refused before anything is verified or looked up for it, except for agents
 * and owners that have proven themselves from there before: nobody is locked out by its neighbours. Their calls are verified all the same. Owners' calls are
 * counted apart, so that agents behind an address do not keep their owner from suspending them.
 */
import type { IncomingMessage } from "node:http";
import type { Caller } from "./auth.ts";
import type { AddressOf } from "./client-address.ts";
import { claimedOwner, keyOfOwner, type Owner } from "./owners/ownership.ts";
import { ApiRefusal, type ProblemCode } from "./problem.ts";
import { type RateDeps, rateLimited } from "./rate-limits.ts";

export interface FrontDoorDeps extends RateDeps {
  readonly addressOf: AddressOf;
  readonly neighbours: Neighbours;
}

/** Some 150 bytes each. Who is forgotten proves itself again, unless its address is over the limit right then. */
const NEIGHBOURS_MAX = 50_000;

/** Who has proven itself from which address: agents by their keys, owners by issuer and subject; those seen last. */
export class Neighbours {
  readonly #known = new Set<string>();

  add(address: string, who: string): void {
    const name = `${address} ${who}`;
    // Deleted first, so that a Set's insertion order is the order of age.
    this.#known.delete(name);
    this.#known.add(name);
    for (const oldest of this.#known) {
      if (this.#known.size <= NEIGHBOURS_MAX) break;
      this.#known.delete(oldest);
    }
  }

  has(address: string, who: string): boolean {
    return this.#known.has(`${address} ${who}`);
  }
}

/** What leaves open who has called. Not `sign-again`: that is ours. */
const UNPROVEN: ReadonlySet<ProblemCode> = new Set([
  "signature-missing",
  "signature-invalid",
  "signature-expired",
  "signature-replayed",
  "digest-mismatch",
  "agent-unknown",
  "agent-suspended",
  "identity-key-invalid",
  "signing-key-ended",
  "owner-unknown",
  "owner-statement-invalid",
]);

/** What a call has to show: an agent's signature, one by the key that it registers, or an owner's token. */
export type ProvenBy = "agent" | "key-in-body" | "owner";

/**
 * Runs `prove`; when it finds that the caller is not who it says, that counts against its address.
 *
 * @throws what `prove` throws, and `rate-limited` instead of running it
 */
export async function atTheFrontDoor<Proof extends { readonly caller: Caller; readonly owner?: Owner | null }>(
  deps: FrontDoorDeps,
  request: IncomingMessage,
  provenBy: ProvenBy,
  prove: () => Promise<Proof>,
): Promise<Proof> {
  const { rates, rateLimits, neighbours } = deps;
  const address = deps.addressOf(request);
  const key = provenBy === "owner" ? `owners ${address}` : address;
  const standing = rates.standing(rateLimits.unproven, key);
  if (!standing.allowed && !neighbours.has(address, claimed(provenBy, request))) {
    throw rateLimited("unproven", rateLimits.unproven, standing);
  }
  try {
    const proof = await prove();
    const { owner, caller } = proof;
    // Whoever registers has proven to hold a key, which anybody can make, and not that it may.
    if (provenBy === "agent") neighbours.add(address, caller.signingKeyId ?? caller.agentId);
    if (owner) neighbours.add(address, keyOfOwner(owner));
    return proof;
  } catch (error) {
    if (error instanceof ApiRefusal && UNPROVEN.has(error.code)) await rates.take(rateLimits.unproven, key);
    throw error;
  }
}

/** Unproven, and only looked at to tell neighbours apart. */
function claimed(provenBy: ProvenBy, { headers }: IncomingMessage): string {
  if (provenBy === "owner") {
    const owner = claimedOwner(headers.authorization);
    return owner === null ? "" : keyOfOwner(owner);
  }
  return /;\s*keyid="([\w-]{43})"/.exec(String(headers["signature-input"] ?? ""))?.[1] ?? "";
}
