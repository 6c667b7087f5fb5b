"""The tests mirror meshsdk/, and add differential/, interop/, faults/ and benchmarks/."""
