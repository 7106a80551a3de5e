package abi

// CellsOff is where the cells of a control file begin: after the words of
// sems semaphores (0 for a queue), on a multiple of CellSize.
func CellsOff(sems int) int {
	return (WordsOff + 8*sems + CellSize - 1) / CellSize * CellSize
}

// ChunkOff is where chunk i stands in a data file.
func ChunkOff(i int) int {
	return i/GroupChunks*GroupSize + PageSize + i%GroupChunks*ChunkSize
}

// ChunkWordOff is where the owner word of chunk i stands: index + 1 of the
// message cell that the chunk belongs to, 0 while it is free.
func ChunkWordOff(i int) int {
	return i/GroupChunks*GroupSize + i%GroupChunks*8
}

// DataSize is the length of a data file with room for chunks.
func DataSize(chunks int) int {
	if chunks == 0 {
		return 0
	}
	return ChunkOff(chunks-1) + ChunkSize
}
