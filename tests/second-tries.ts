/**
 * A reporter that tells at the end which tests passed only at their second try, and what the first one met: nothing is mended by being tried again.
 */
import type { Reporter, TestCase } from "vitest/node";

// biome-ignore lint/style/noDefaultExport: vitest loads a reporter by it.
export default class SecondTries implements Reporter {
  readonly #tests: TestCase[] = [];

  onTestCaseResult(test: TestCase): void {
    if (test.diagnostic()?.flaky) this.#tests.push(test);
  }

  onTestRunEnd(): void {
    if (this.#tests.length === 0) return;
    console.log(`\nPassed at the second try only: ${this.#tests.length}`);
    for (const test of this.#tests) {
      console.log(`  ${test.module.relativeModuleId} > ${test.fullName}`);
      for (const { stack, message } of test.result().errors ?? []) console.log(`    ${stack ?? message}`);
    }
  }
}
