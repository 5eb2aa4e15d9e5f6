/**
 * A PKCS#11 token for tests: SoftHSM 2, with a folder of its own for each test process.
 *
 * Tests are not skipped where it is missing: they fail and say what to install.
 */
import { execFileSync } from "node:child_process";
import { existsSync, mkdirSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";

const MODULES = [
  "/usr/lib/softhsm/libsofthsm2.so",
  "/usr/lib64/pkcs11/libsofthsm2.so",
  "/opt/homebrew/lib/softhsm/libsofthsm2.so",
  "/usr/local/lib/softhsm/libsofthsm2.so",
];
const SO_PIN = "87654321";

export const PIN = "12345678";

export interface Tokens {
  readonly modulePath: string;
  /** Makes a token of this label, with `PIN`. To be called before the module is first loaded in this process, or by another process. */
  make(label: string): void;
  remove(): void;
}

/** Points SoftHSM, in this process and those it starts, to an empty folder. */
export function openTokens(): Tokens {
  const modulePath = MODULES.find((path) => existsSync(path));
  if (modulePath === undefined) {
    throw new Error("SoftHSM 2 is not installed: bash infra/install-system-packages.sh, or: brew install softhsm");
  }
  const folder = mkdtempSync(join(tmpdir(), "sealpost-token-"));
  mkdirSync(join(folder, "tokens"));
  writeFileSync(join(folder, "softhsm2.conf"), `directories.tokendir = ${join(folder, "tokens")}\nlog.level = ERROR\n`);
  process.env["SOFTHSM2_CONF"] = join(folder, "softhsm2.conf");
  return {
    modulePath,
    make: (label) => {
      execFileSync("softhsm2-util", ["--init-token", "--free", "--label", label, "--pin", PIN, "--so-pin", SO_PIN]);
    },
    remove: () => rmSync(folder, { recursive: true, force: true }),
  };
}
