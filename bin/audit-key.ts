/**
 * `npm run audit-key -- create NAME | show`: the key that signs the audit's checkpoints, in the file that SEALPOST_AUDIT_KEY_FILE names (docs/audit.md).
 *
 *     create NAME   makes it, for the log of this name (a host and a path, say: example.com/audit). Never in the place of another.
 *     show          prints the verifier key, for whoever checks checkpoints.
 *
 * Ends with 0 when it is done, 1 when it was refused, 2 for wrong words.
 */
import { formatVerifierKey, verifierOf } from "../protocol/audit/note.ts";
import { nodePrimitives } from "../protocol/primitives/node.ts";
import { Refusal } from "../protocol/refusal.ts";
import { createAuditKey, readAuditKey } from "../store/audit-key.ts";
import { readAuditKeyFile } from "./config.ts";

process.exitCode = main(process.argv.slice(2));

function main([command, name, ...rest]: readonly string[]): number {
  const isCreate = command === "create" && name !== undefined && rest.length === 0;
  if (!isCreate && !(command === "show" && name === undefined)) {
    console.error("Usage: npm run audit-key -- create NAME | show");
    return 2;
  }
  const path = readAuditKeyFile();
  try {
    const signer = isCreate ? createAuditKey(path, name) : readAuditKey(path);
    console.log(formatVerifierKey(verifierOf(nodePrimitives, signer.name, signer.key.publicKey)));
    return 0;
  } catch (error) {
    if (!(error instanceof Refusal)) throw error;
    console.error(`${error.code}: ${error.field}: ${error.fix}`);
    return 1;
  }
}
