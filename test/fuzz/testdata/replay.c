/* Runs the inputs of files, where the compiler has no fuzzer: replay FILE... */
#include <stdint.h>
#include <stdio.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int main(int argc, char **argv)
{
	static uint8_t data[1 << 16];

	for (int i = 1; i < argc; i++) {
		FILE *f = fopen(argv[i], "r");

		if (f == NULL) {
			perror(argv[i]);
			return 2;
		}
		size_t n = fread(data, 1, sizeof data, f);
		fclose(f);
		fprintf(stderr, "%s\n", argv[i]); /* the last one is the one that fails */
		LLVMFuzzerTestOneInput(data, n);
	}
	return 0;
}
