/**
 * Makes an agent whose keys the service holds, for whoever has proven to have the access key.
 *
 * Promise: an access key has one agent; registering it again answers that one, and makes up for prekeys that could not be published before.
 */
import type { Agent } from "../agents.ts";
import { actorOf, type Owner } from "../owners/ownership.ts";
import type { CustodyDeps } from "./custody.ts";
import { requireKeyring } from "./custody.ts";
import { type RegisterAgentDeps, type Registered, registered } from "./register-agent.ts";

/**
 * @throws ApiRefusal `custody-unavailable`, and of the owner's statement; `Refusal` `owner-mismatch`; `Unavailable`: the same may be asked for again
 */
export async function registerHeldAgent(
  deps: RegisterAgentDeps & CustodyDeps,
  access: { readonly keyId: string; readonly key: Uint8Array },
  ownerStatement: string | null,
): Promise<Registered> {
  const custody = requireKeyring(deps);
  const accessKey = access.key;
  const owner = await deps.ownership.ownerOfNew(ownerStatement, access.keyId, deps.now());
  return custody.inTurn(accessKey, async () => {
    const known = await custody.findAgentOfAccessKey(accessKey);
    const made = known === null ? await makeAgent(deps, accessKey, owner) : null;
    const agent = known ?? made ?? (await custody.findAgentOfAccessKey(accessKey));
    if (agent === null) throw new Error("an agent that exists was not found");
    if (made === null && owner !== null) {
      await deps.claimAgent({ agentId: agent.agentId, owner, actor: actorOf(owner) }, deps.now());
    }
    if (agent.status === "active") await custody.publishPrekeys(agent.agentId);
    return { agent, created: made !== null, owner };
  });
}

/** Null when another process registered the same key meanwhile. */
async function makeAgent(
  deps: RegisterAgentDeps & CustodyDeps,
  accessKey: Uint8Array,
  owner: Owner | null,
): Promise<Agent | null> {
  const custody = requireKeyring(deps);
  const now = deps.now();
  const { identity, sealed } = custody.makeIdentity();
  const { agentId } = identity;
  const identityKey = identity.signing.publicKey;
  const { created } = await deps.storeAgent({
    agentId,
    identityKey,
    custody: "server",
    held: { accessKey, identitySealed: sealed },
    owner,
    now,
    fact: registered(agentId, "server", owner, now),
  });
  // Not when the answer was lost: then the agent may be there, and a key without an agent harms nobody.
  if (!created) custody.destroy(agentId);
  return created ? { agentId, identityKey, custody: "server", accessKey, status: "active", createdAt: now } : null;
}
