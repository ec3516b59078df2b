// Package config turns text into specs: syntax, defaults and messages that name
// file, line, column and key. It is pure; it touches nothing but the files it is
// told to read.
package config
