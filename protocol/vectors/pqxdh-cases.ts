import { agreedSecret } from "../key-agreement.ts";
import { mlKem768PairFrom } from "../primitives/primitives.ts";
import { agreementCase, outputsOf } from "./agreement-case.ts";
import { type Case, Fields, Mismatch } from "./case.ts";

export function pqxdhCases(file: Fields): Case[] {
  const agreements = file.list("cases");
  return [
    ...agreements.map((value) => agreementCase(2, value)),
    ...file.list("implicit_rejection").map((value, index) => rejectionCase(agreements, value, index)),
  ];
}

/** A ciphertext that was damaged on its way in one of the agreements: it gives another secret, and no error. */
function rejectionCase(agreements: readonly unknown[], value: unknown, index: number): Case {
  return {
    name: `implicit rejection ${index}`,
    run: (primitives, checks) => {
      const fields = new Fields(value);
      const of = agreements[fields.number("case")];
      if (of === undefined) throw new Mismatch("case names no agreement");
      const agreement = new Fields(of);
      const prekey = agreement.fields("responder").fields("kem_prekey");
      const pair = mlKem768PairFrom(primitives, prekey.bytes("seed"));
      const kemSecret = primitives.mlKem768Decapsulate(pair, fields.bytes("kem_ciphertext"));
      checks.equal("kem_shared_secret", kemSecret, fields.bytes("kem_shared_secret"));
      const secret = agreedSecret(primitives, outputsOf(agreement), kemSecret);
      checks.equal("shared_secret", secret, fields.bytes("shared_secret"));
      fields.end();
    },
  };
}
