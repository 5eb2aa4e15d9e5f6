/**
 * Whose messages their recipients do not let in any more: asked once more before they are encrypted, for between ingress and here a policy may have changed.
 *
 * Only of messages. The answers that the service gives for an agent (rekey, repair, and the request for a message that did not open) belong to what was accepted
 * before; they bring nothing that its agent has said since. And only the recipient's own word counts: mail for one that is suspended waits for it, as that does which
 * agents encrypt themselves.
 */
import type { MessageSend } from "../../schemas/values.ts";
import type { Ask, Rule } from "../../store/permissions.ts";
import type { Tx } from "../../store/tx.ts";
import { distinct } from "./commands.ts";

/**
 * Answers which rule keeps a value of the batch away, null for those that may go on. By whom it says to whom, and not by its name: two commands of one id may have
 * different recipients, each with its own word.
 *
 * @throws Unavailable
 */
export async function rulesAgainst(
  values: readonly MessageSend[],
  tx: { readonly custody: Pick<Tx["custody"], "findDecisions"> },
): Promise<(value: MessageSend) => Rule | null> {
  const asks = distinct(values.filter(isMessage).map(askOf), nameOf);
  const decisions = await tx.custody.findDecisions(asks);
  const rules = new Map(
    asks.flatMap((ask, n): [string, Rule][] => {
      const decision = decisions[n];
      if (decision === undefined || decision.allowed || decision.rule === "recipient-inactive") return [];
      return [[nameOf(ask), decision.rule]];
    }),
  );
  return (value) => (isMessage(value) ? (rules.get(nameOf(askOf(value))) ?? null) : null);
}

function isMessage({ kind }: MessageSend): boolean {
  return kind === "message";
}

/** The recipient sees the root of the chain as speaking, where there is one. */
function askOf({ senderId, recipientId, delegation }: MessageSend): Ask {
  return { senderId, recipientId, principalId: delegation?.[0]?.issuerId ?? senderId };
}

function nameOf({ senderId, recipientId, principalId }: Ask): string {
  return `${senderId} ${recipientId} ${principalId}`;
}
