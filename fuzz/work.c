/* Counts work: every load from memory in instrumented code calls one of these
 * (-sanitizer-coverage-trace-loads). The count is the same in every run over the same input, on a
 * busy machine as on an idle one, which no clock is. */
#include <stdint.h>

static uint64_t loads;

void __sanitizer_cov_load1(uint8_t *p) { (void)p; loads++; }
void __sanitizer_cov_load2(uint16_t *p) { (void)p; loads++; }
void __sanitizer_cov_load4(uint32_t *p) { (void)p; loads++; }
void __sanitizer_cov_load8(uint64_t *p) { (void)p; loads++; }
void __sanitizer_cov_load16(void *p) { (void)p; loads++; }

uint64_t veilwatch_loads(void) { return loads; }
