/**
 * An operator's wish for new prekeys of an agent.
 *
 * Promise: an agent of server custody has a new signed prekey when this answers, or keeps the older one in force; one that has its keys
 * itself is asked to rotate, if it is connected.
 */
import { ApiRefusal } from "../problem.ts";

export interface RotateAgentDeps {
  /** `jobs/rotation.ts`; null when no active agent has the id. Throws `Unavailable`. */
  readonly rotatePrekeys: (
    agentId: string,
  ) => Promise<
    | { readonly outcome: "rotated"; readonly signedPrekeyId: string }
    | { readonly outcome: "failed"; readonly code: "keys-unavailable" | "unavailable" | "internal" }
    | { readonly outcome: "asked"; readonly connected: boolean }
    | null
  >;
}

export type RotateAgentAnswer =
  | { readonly outcome: "rotated"; readonly signedPrekeyId: string }
  /** `connected`: a gateway of the agent took the notice. */
  | { readonly outcome: "asked"; readonly connected: boolean };

/** @throws ApiRefusal `no-such-agent`, `keys-unavailable`, `unavailable`, `internal`; `Unavailable` */
export async function rotateAgent(deps: RotateAgentDeps, agentId: string): Promise<RotateAgentAnswer> {
  const answer = await deps.rotatePrekeys(agentId);
  if (answer === null) throw new ApiRefusal("no-such-agent", { field: "/id" });
  if (answer.outcome === "failed") throw new ApiRefusal(answer.code);
  return answer;
}
