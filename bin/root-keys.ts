/**
 * The root keys that the configuration names.
 */
import { openRootFile } from "../store/keyring/root-file.ts";
import type { RootKeys } from "../store/keyring/root-keys.ts";
import type { KeyringConfig } from "./config.ts";

/** Throws what root keys throw. */
export async function openRootKeys({ root }: KeyringConfig): Promise<RootKeys> {
  if ("file" in root) return openRootFile(root.file);
  // Native code that a process without a token need not be able to load.
  const { openTokenRoots } = await import("../store/keyring/token-roots.ts");
  return openTokenRoots(root);
}
