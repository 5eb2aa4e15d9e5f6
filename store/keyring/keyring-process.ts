/**
 * A process with a keyring, for tests; each line it prints is a fact its parent may rely on.
 *
 *     node keyring-process.ts <folder> <PKCS#11 module, or "file"> <PIN> open                    opens it and says what came of it
 *     node keyring-process.ts <folder> <…> <PIN> days <count>                                    makes the first days, and says a digest of each key
 *     node keyring-process.ts <folder> <…> <PIN> churn <prefix>                                  makes and destroys master keys, and rotates, without end
 */
import { createHash } from "node:crypto";
import { writeSync } from "node:fs";
import { join } from "node:path";
import { type Keyring, KeyringError } from "./keyring.ts";
import { openKeyring } from "./keyring-file.ts";
import { openRootFile } from "./root-file.ts";
import { openTokenRoots } from "./token-roots.ts";

const STDOUT = 1;
const [folder = "", modulePath = "file", pin = "", command = "", argument = ""] = process.argv.slice(2);

/** Not through a pipe's buffer: what was said is said before whatever comes next. */
function say(line: string): void {
  writeSync(STDOUT, `${line}\n`);
}

function digest(key: Uint8Array): string {
  return createHash("sha256").update(key).digest("hex");
}

function open(): Keyring {
  const token = { modulePath, tokenLabel: "sealpost", pin, keyLabel: "root" };
  return openKeyring(
    join(folder, "keyring"),
    modulePath === "file" ? openRootFile(join(folder, "root")) : openTokenRoots(token),
  );
}

function makeDays(keyring: Keyring): void {
  for (let number = 0; number < Number(argument); number++) {
    keyring.create({ kind: "day", number });
    say(`day ${number} ${digest(keyring.unwrap({ kind: "day", number }))}`);
  }
}

function churn(keyring: Keyring): void {
  for (let round = 0; ; round++) {
    const agentId = `${argument}-${round}`;
    keyring.create({ kind: "master", agentId });
    say(`made ${agentId} ${digest(keyring.unwrap({ kind: "master", agentId }))}`);
    if (round % 3 === 0) {
      say(`destroying ${agentId}`);
      keyring.destroyMaster(agentId);
      say(`destroyed ${agentId}`);
    }
    if (round % 20 === 19) keyring.rotate();
  }
}

try {
  const keyring = open();
  say("open");
  if (command === "days") makeDays(keyring);
  if (command === "churn") churn(keyring);
} catch (error) {
  if (!(error instanceof KeyringError)) throw error;
  say(error.code);
}
