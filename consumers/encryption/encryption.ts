/**
 * Encrypts what agents of server custody say, in the sessions that the service keeps for them.
 *
 * Reads   message.send.v1, keyed by sender:recipient: in order per pair, at least once.
 * Writes  message.encrypted.v1 once per command, and the same envelope again for a repeat; message.discarded.v1 for what cannot be encrypted: another
 *         content under a used id, a recipient without prekeys, or one that does not let the sender speak any more, a dead letter.
 * Keeps   the pair's ratchet state, which moves on in the step's transaction, under its row's lock; a command's envelope, or why there is none, for 40 days.
 * Refuses records that are not what their key says, content that was not sealed to us for this command or whose epoch's key is gone, senders whose
 *         keys are gone, states that do not open.
 *
 * An envelope leaves only after the state that made it is committed. A step that is done again, here or by another owner, derives from the committed
 * state; what an attempt before it derived was in memory only. So no message key ever makes two ciphertexts that both leave. In a database that was put
 * back from a backup it stands: the states there are older than what has left.
 */
import type { MessageSend } from "../../schemas/values.ts";
import type { Tx } from "../../store/tx.ts";
import { messageSend } from "../../streams/catalogue.ts";
import type { StepConsumer } from "../../streams/consumer.ts";
import { checkCommand } from "./commands.ts";
import { toBury, toLament } from "./events.ts";
import { type EncryptionDeps, encryptAll } from "./sending.ts";

export function encryption(deps: EncryptionDeps): StepConsumer<MessageSend, Tx> {
  return {
    name: "encryption",
    reads: [messageSend],
    check: checkCommand,
    lament: toLament,
    bury: (letters, tx) => tx.custody.writeDiscarded(toBury(letters)),
    afterRestore: "stand",
    step: (batch, tx) => encryptAll(deps, batch, tx),
  };
}
