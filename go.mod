module github.com/ipcspace/ipcspace

go 1.26
