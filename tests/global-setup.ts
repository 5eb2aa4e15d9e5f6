/**
 * Starts the four real servers once for all tests that need them, and stops them after the last one.
 *
 * The tests share them: each takes topics, groups, agents and databases of its own.
 */
import type { TestProject } from "vitest/node";
import { type Stack, startStack } from "../infra/local/stack.ts";

let stack: Stack | undefined;

export async function setup(project: TestProject): Promise<void> {
  stack = await startStack({ env: process.env, ephemeral: true });
  project.provide("stackUrls", stack.urls);
}

export async function teardown(): Promise<void> {
  await stack?.stop();
}
