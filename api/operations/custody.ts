/**
 * What the API needs for agents whose keys the service holds, and the refusals they have in common.
 */
import type { Identity } from "../../protocol/identity.ts";
import type { IngressCommand, IngressKey } from "../../protocol/ingress.ts";
import { Refusal } from "../../protocol/refusal.ts";
import type { BegunSession } from "../../store/custody/begin-session.ts";
import type { OpenedMailbox } from "../../store/custody/open-mailbox.ts";
import type { TakenRequests } from "../../store/custody/requests.ts";
import type { Agent, FindAgents } from "../agents.ts";
import type { Caller } from "../auth.ts";
import { ApiRefusal } from "../problem.ts";

/** Methods throw `Unavailable`, and Refusals of `SealedCode` (store/at-rest.ts) when an agent's keys are gone. */
export interface CustodyDoor {
  /** Registrations of one access key, one after the other: those that race would make keys only to destroy them again. Throws `Unavailable` of too many. */
  inTurn<Result>(accessKey: Uint8Array, work: () => Promise<Result>): Promise<Result>;
  /** A new identity and its seed, sealed; its master key is in the keyring. */
  makeIdentity(): { readonly identity: Identity; readonly sealed: Uint8Array };
  /** Of an identity that nobody got to know. */
  destroy(agentId: string): void;
  findAgentOfAccessKey(accessKey: Uint8Array): Promise<Agent | null>;
  /** Makes and publishes what is due of an agent's prekeys. */
  publishPrekeys(agentId: string): Promise<void>;
  /** Throws for an agent whose keys are gone: what it said could never be encrypted. */
  requireKeys(agentId: string): void;
  /** What content is sealed to now. */
  ingressKey(): IngressKey;
  /** May content that was sealed to this epoch's key still be accepted, and is there such a key? */
  isEpochAccepted(epoch: number): boolean;
  /** Content for the log, sealed to the encryption tier. `frame`: padded. */
  sealContent(command: IngressCommand, frame: Uint8Array): Promise<Uint8Array>;
  /** The session in which the agent sends to this peer, begun with a claimed bundle if there is none. Null: the peer has no prekeys. */
  beginSession(agentId: string, peerId: string, requestId: string): Promise<BegunSession | null>;
  openMailbox(
    recipientId: string,
    range: { readonly afterSeq: number; readonly limit: number; readonly maxBytes: number },
  ): Promise<OpenedMailbox>;
  /** What peers ask this agent to say anew. */
  takeRequests(ownerId: string): Promise<TakenRequests>;
}

export interface CustodyDeps {
  /** Null where this service has no keyring. */
  readonly custody: CustodyDoor | null;
  readonly findAgents: FindAgents;
}

/** @throws ApiRefusal `custody-unavailable` */
export function requireKeyring({ custody }: Pick<CustodyDeps, "custody">): CustodyDoor {
  if (custody === null) throw new ApiRefusal("custody-unavailable");
  return custody;
}

/** @throws ApiRefusal `custody-mismatch`, `custody-unavailable` */
export async function requireHeldKeys(deps: CustodyDeps, caller: Caller): Promise<CustodyDoor> {
  const agent = (await deps.findAgents([caller.agentId])).get(caller.agentId);
  if (agent?.custody !== "server") throw new ApiRefusal("custody-mismatch");
  return requireKeyring(deps);
}

/** What the agent's own keys have against it, in the API's words. */
export async function withHeldKeys<Result>(work: () => Promise<Result>): Promise<Result> {
  try {
    return await work();
  } catch (error) {
    if (!(error instanceof Refusal)) throw error;
    if (error.code === "key-destroyed") throw new ApiRefusal("keys-destroyed");
    if (error.code === "key-unknown") throw new ApiRefusal("keys-unavailable");
    if (error.code === "sealed-damaged") {
      throw new ApiRefusal("keys-unavailable", { detail: "what is stored for this agent does not open" });
    }
    throw error;
  }
}
