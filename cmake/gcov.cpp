// In a coverage build only: what lets tools/gcov_plugin.py write the counters before a process is ended from outside.
extern "C" {
void __gcov_dump(void);
void __gcov_reset(void);

[[gnu::visibility("default")]] void pydlx_gcov_dump() { __gcov_dump(); }
[[gnu::visibility("default")]] void pydlx_gcov_reset() { __gcov_reset(); }
}
