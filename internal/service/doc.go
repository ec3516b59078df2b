// Package service runs one service: a total state table, one goroutine that
// owns the state, and the limits on starting, stopping, resting and holding.
package service
