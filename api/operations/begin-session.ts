/**
 * Begins a session with a peer ahead of the first message, for agents whose keys the service holds, and tells what may be known of it.
 *
 * Promise: asked again it answers the same session. It says nothing to the peer, and answers nothing that a stranger could use.
 */
import type { BegunSession } from "../../store/custody/begin-session.ts";
import type { Authenticated } from "../auth.ts";
import { type PermissionDeps, requireAllowed } from "../authz/permission.ts";
import { mayBeMessaged } from "../may-message.ts";
import { ApiRefusal } from "../problem.ts";
import { type CustodyDeps, requireHeldKeys, withHeldKeys } from "./custody.ts";

/**
 * @throws ApiRefusal `custody-mismatch`, `custody-unavailable`, `keys-destroyed`, `keys-unavailable`, `recipient-unknown`, `not-allowed`, `prekeys-unavailable`;
 *   `Unavailable`
 */
export async function beginSession(
  deps: CustodyDeps & PermissionDeps,
  caller: Authenticated,
  peerId: string,
): Promise<BegunSession> {
  const custody = await requireHeldKeys(deps, caller);
  if (peerId === caller.agentId) {
    throw new ApiRefusal("malformed", {
      field: "/peer_id",
      detail: "this is the caller itself",
      fix: "Name another agent.",
    });
  }
  if (!mayBeMessaged((await deps.findAgents([peerId])).get(peerId))) {
    throw new ApiRefusal("recipient-unknown", { field: "/peer_id" });
  }
  await requireAllowed(deps, caller, peerId, "claim", "/peer_id");
  const session = await withHeldKeys(() => custody.beginSession(caller.agentId, peerId, `session:${caller.nonce}`));
  if (session === null) throw new ApiRefusal("prekeys-unavailable", { field: "/peer_id" });
  return session;
}
