/**
 * A folder of ours under the system's temporary folder, for what another OS user must be able to reach.
 *
 * Promises: it belongs to us, so nobody else could have put anything in it; the same words give the same folder.
 */
import { createHash } from "node:crypto";
import { chmod, lstat, mkdir } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { CannotRun } from "./binaries.ts";

export async function ownTemporaryFolder(purpose: string, owner = ""): Promise<string> {
  const uid = process.getuid?.() ?? 0;
  const key = createHash("sha256").update(`${uid} ${owner}`).digest("hex").slice(0, 12);
  const top = join(tmpdir(), `sealpost-${purpose}-${key}`);
  await mkdir(top, { recursive: true });
  const found = await lstat(top);
  if (!found.isDirectory() || found.uid !== uid) {
    throw new CannotRun(`the folder ${top} belongs to somebody else; remove it.`);
  }
  await chmod(top, 0o755);
  return top;
}
