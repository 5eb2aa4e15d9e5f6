/**
 * What the API needs for agents whose keys the service holds, and the refusals they have in common.
 */
import type { Identity } from "../../protocol/identity.ts";
import { Refusal } from "../../protocol/refusal.ts";
import type { OpenedMailbox } from "../../store/custody/open-mailbox.ts";
import type { Agent, FindAgents } from "../agents.ts";
import type { Caller } from "../auth.ts";
import { ApiRefusal } from "../problem.ts";

/** Methods throw `Unavailable`, and Refusals of `SealedCode` (store/at-rest.ts) when an agent's keys are gone. */
export interface CustodyDoor {
  /** A new identity and its seed, sealed; its master key is in the keyring. */
  makeIdentity(): { readonly identity: Identity; readonly sealed: Uint8Array };
  /** Of an identity that nobody got to know. */
  destroy(agentId: string): void;
  findAgentOfAccessKey(accessKey: Uint8Array): Promise<Agent | null>;
  /** Makes and publishes what is due of an agent's prekeys. */
  publishPrekeys(agentId: string): Promise<void>;
  /** Content for the log: sealed to the encryption tier, and what a repeat is recognised by. `frame`: padded. */
  sealContent(
    command: { readonly senderId: string; readonly recipientId: string; readonly messageId: string },
    frame: Uint8Array,
  ): Promise<{ readonly sealed: Uint8Array; readonly hmac: Uint8Array }>;
  openMailbox(
    recipientId: string,
    range: { readonly afterSeq: number; readonly limit: number; readonly maxBytes: number },
  ): Promise<OpenedMailbox>;
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
