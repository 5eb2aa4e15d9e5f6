/**
 * `npm run keyring -- create | rotate | check`: the keyring of server custody, in an operator's hands.
 *
 *     create   makes an empty keyring, and the first root key if there is none. Never in the place of another.
 *     rotate   makes a new root key, wraps all keys anew under it and destroys the old root keys: no older copy of the keyring opens any more. The
 *              service may run. To be called again when it was interrupted.
 *     check    opens it, as the service does when it starts.
 */
import { Unavailable } from "../protocol/refusal.ts";
import { KeyringError } from "../store/keyring/keyring.ts";
import { createKeyring, openKeyring } from "../store/keyring/keyring-file.ts";
import { readKeyringConfig } from "./config.ts";
import { openRootKeys } from "./root-keys.ts";

process.exitCode = await main(process.argv.slice(2));

async function main([command = "", ...rest]: readonly string[]): Promise<number> {
  if (!["create", "rotate", "check"].includes(command) || rest.length > 0) {
    console.error("Usage: npm run keyring -- create | rotate | check");
    return 2;
  }
  const config = readKeyringConfig();
  try {
    const roots = await openRootKeys(config);
    if (command === "create") createKeyring(config.file, roots);
    const keyring = openKeyring(config.file, roots);
    if (command === "rotate") keyring.rotate();
    console.log(`keyring ${keyring.id} under root key ${roots.newest()}`);
    keyring.close();
    roots.close();
    return 0;
  } catch (error) {
    const reason = error instanceof Unavailable ? error.cause : error;
    if (!(reason instanceof KeyringError)) throw error;
    console.error(`${reason.code}: ${reason.message}`);
    return 1;
  }
}
