/**
 * `npm run keyring -- create | rotate | check | accept`: the keyring of server custody, in an operator's hands.
 *
 *     create   makes an empty keyring, and the first root key if there is none. Never in the place of another.
 *     rotate   makes a new root key, wraps all keys anew under it and destroys the old root keys: no older copy of the keyring opens any more. The
 *              service may run. To be called again when it was interrupted.
 *     check    opens it, as the service does when it starts.
 *     accept   says that this is the keyring of the database, whatever was before: when the right one is lost, or when a copy that was put back is the
 *              newest there is. What was sealed under keys that it has not is lost. Needs SEALPOST_POSTGRES_URL.
 */
import { Unavailable } from "../protocol/refusal.ts";
import { type Keyring, KeyringError } from "../store/keyring/keyring.ts";
import { createKeyring, openKeyring } from "../store/keyring/keyring-file.ts";
import { acceptKeyring } from "../store/keyring-of-database.ts";
import { openPostgres } from "../store/postgres.ts";
import { readKeyringConfig, readPostgresUrl } from "./config.ts";
import { openRootKeys } from "./root-keys.ts";

process.exitCode = await main(process.argv.slice(2));

async function main([command = "", ...rest]: readonly string[]): Promise<number> {
  if (!["create", "rotate", "check", "accept"].includes(command) || rest.length > 0) {
    console.error("Usage: npm run keyring -- create | rotate | check | accept");
    return 2;
  }
  const config = readKeyringConfig();
  try {
    const roots = await openRootKeys(config);
    if (command === "create") createKeyring(config.file, roots);
    const keyring = openKeyring(config.file, roots);
    if (command === "rotate") keyring.rotate();
    if (command === "accept") await accept(keyring);
    console.log(`keyring ${keyring.id} under root key ${roots.newest()}`);
    keyring.close();
    roots.close();
    return 0;
  } catch (error) {
    const reason = error instanceof Unavailable ? error.cause : error;
    if (reason instanceof KeyringError) console.error(`${reason.code}: ${reason.message}`);
    else if (error instanceof Unavailable) console.error(error.message);
    else throw error;
    return 1;
  }
}

async function accept(keyring: Keyring): Promise<void> {
  const postgres = openPostgres(readPostgresUrl(), { applicationName: "sealpost-keyring", connectionsMax: 1 });
  await acceptKeyring(postgres, keyring).finally(() => postgres.close());
}
